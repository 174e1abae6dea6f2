"""The words that a reader may not know, and the links to them from every page.

Each term is linked where a page first mentions it in running text: never in code, headings, tables, figures or links.
What is linked follows from the page's text alone, so the same page always has the same links. Cheap to import.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import NamedTuple

FILE = "glossary.html"


class Term(NamedTuple):
    """A word with its meaning; `found_as` is a regular expression of the ways in which pages write it."""

    name: str
    found_as: str
    meaning: str

    @property
    def slug(self) -> str:
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")


# Name :: how pages write it, then what it means.
TEXT = """
Arm :: arms?
One of the settings that a claim's page compares: a page's training with what differs from it, run with several seeds.

Augmentation :: augment(?:ation|ed|s)|transforms
Small random changes of the training images (a turn, a shift, a mirror image), drawn anew for each image and epoch, so
that a network cannot learn the images by heart. Validation and test images are never changed.

BatchNorm :: BatchNorm|batch normalisation
A layer that brings each channel of a batch to mean 0 and variance 1 before a learned scale and shift. Training
becomes less sensitive to the learning rate.

Calibration :: calibrat(?:ion|ed)(?! error)
Whether a network that answers with a confidence of 70 % is right seven times in ten.

Calibration error :: calibration error|ECE
Mean distance between confidence and accuracy over bins of confidence, weighted by the images in each (ECE). 0 is
perfect.

Chance level :: chance level
Where a network stands that has learned nothing: validation accuracy below the share of the most frequent class plus
two points. A run that ends there counts as diverged.

Class weights :: class[- ]weight(?:s|ed)
Factors that make a mistake on a rare class cost more, inversely to how frequent the class is.

Claim :: claims?
A sentence that the original, or this study, holds to be true. Each has a page with the runs that test it and a rule
written down before they ran.

Clean gap :: clean gaps?
The gap without what training adds: accuracy on training images as they are, Dropout off, minus validation accuracy. It
tells learning by heart from training images that were merely made harder.

Clipping :: gradient clipping|clipping
Shortening a gradient that is longer than a limit, so that one bad batch cannot throw the weights far off.

Confidence :: confidences?|confident
The probability that the network gives to its own answer.

Confusion matrix :: confusion matri(?:x|ces)
How often images of each true class were given each answer. The diagonal holds the right answers.

Cross-entropy :: cross-entropy|nats?
The loss: minus the logarithm of the probability given to the true class, on average, in nats. Guessing among seven
classes costs ln 7 = 1.95.

Diverged :: diverged|diverges
State of a run whose loss became NaN or which never left chance level. Such a run is data and stays in every average;
it is not a failed one.

Dropout :: Dropout
Setting a random share of values to zero while training, so that no feature can rely on another. It is off when the
network is measured.

Ensemble :: ensembles?
Several trained networks that answer together, their probabilities averaged.

Epoch :: epochs?
One pass over all training images.

F1 :: macro[- ]F1|F1
Harmonic mean of precision and recall of a class; macro-F1 is its mean over the classes, so that rare ones count as
much as frequent ones.

Gap :: generalisation gap|(?:the|no|this) gap|gap
Training accuracy, as trained, minus validation accuracy at the epoch that is kept. Wide: the network has learned its
training images rather than the task.

Grad-CAM :: Grad-CAM
A map of the places in an image whose features speak for the answer given (Selvaraju et al. 2017).

Interval :: 95 % intervals?|intervals?
The range that holds the true value in 95 of 100 such experiments. Two kinds are never mixed here: Wilson's and its
relatives say how far a figure would move with other images, Student's t over seeds how far it moves with other seeds.

Kaiming initialisation :: Kaiming(?: initialisation|'s)?
Random starting weights whose spread follows from each layer's inputs, so that signals neither die nor explode in
networks with ReLU (He et al. 2015).

Label smoothing :: label smoothing
Training towards 90 % for the labelled class and the rest spread over the others, since labels are wrong now and then.

Leak-free :: leak-free
Test accuracy on the test images that have no exact copy in Training or PublicTest. One fixed set for every run.

Late loss variability :: late loss variability
Standard deviation of the changes of validation loss from one epoch to the next, over the second half of a run: how
restless training still is, a steady fall left out.

Learning rate :: learning rates?
The size of the steps by which training changes the weights.

McNemar's test :: McNemar's(?: exact)?(?: test| p)?
Compares two networks on the same images by those that only one of them has right: were the two equally good, such
images would fall to either side like a coin. The p value is how often a fair coin would fall at least as one-sidedly.

Moving average :: moving averages?
The mean of a network's weights over the last steps, each step back counting a little less. It is measured and kept in
place of the weights of one moment.

Multiply-adds :: multiply-adds
Multiplications with an addition that one image costs: what a network costs to run, where its parameters are what it
costs to store.

Official :: official
Test accuracy on all 3,589 PrivateTest images, as the literature reports it, copies of training images included.

Overfitting :: overfit(?:s|ting|ted)?
Getting better on the training images while getting no better, or worse, on others.

Page :: pages?
One notebook executed with the parameters of one YAML file, rendered to one HTML file.

Plateau :: plateaus?
Epochs in which validation loss does not improve. The plateau schedule then multiplies the learning rate by a factor.

Precision :: precision
Of the images answered as a class, the share that is of that class.

PrivateTest :: PrivateTest
The 3,589 images of FER2013 that decided the Kaggle contest of 2013: the test set here and in the literature.

PublicTest :: PublicTest
The 3,589 images of FER2013 behind the contest's public ranking: part of training and validation here, as in the
original; where `split` is `official`, validation alone.

Recall :: recalls?
Of the images of a class, the share that is recognised as such.

Run :: runs?
One training: parameters and a seed in, weights, history and predictions out.

Scheduler :: schedulers?
The rule by which the learning rate changes while training goes on.

Seed :: seeds?
The number from which all chance in a run is drawn: starting weights, order of images, transforms, Dropout. Other
seeds tell how much of a result is luck.

Temperature scaling :: temperature(?: scaling)?
Dividing a network's logits by one number, fitted on validation images, so that its confidence becomes true. Its
answers stay the same (Guo et al. 2017).

Test set :: test set
Images that neither train nor choose anything. They are scored for few pages, named beforehand, after selection.

Test views :: (?:ten|test) views
Copies of an image, mirrored and shifted by two pixels, whose answers a network averages into one.

Torn copies :: torn copies|torn(?: apart)?
Exact copies of one image of which one trains and another validates: validation then asks for what was learned by
heart.

Validation :: validation
The images by which epochs, parameters and models are chosen. They do not train.

Verdict :: verdicts?
Supported, not supported or inconclusive: computed from the runs by the claim's rule, never typed.
"""


def _terms() -> tuple[Term, ...]:
    entries = (re.split(r" :: |\n", entry, maxsplit=2) for entry in TEXT.strip().split("\n\n"))
    return tuple(Term(name, found_as, " ".join(meaning.split())) for name, found_as, meaning in entries)


TERMS = _terms()
TAG = re.compile(r"""<!--.*?-->|<[a-zA-Z/!](?:[^<>"']|"[^"]*"|'[^']*')*>""", re.S)
CLOSED = {"a", "abbr", "button", "code", "dt", "figure", "nav", "pre", "script", "style", "summary", "svg", "table"}
CLOSED |= {"h1", "h2", "h3", "h4", "h5", "h6"}


@cache
def _mentions() -> re.Pattern[str]:
    ways = "|".join(f"(?P<t{number}>{term.found_as})" for number, term in enumerate(TERMS))
    return re.compile(rf"(?<![\w./-])(?:{ways})(?![\w/]|[.-]\w)", re.I)


def link(content: str, href: str = FILE, but: str = "") -> str:
    """HTML with the first mention of each term linked to its place in the glossary.

    Parameters
    ----------
    content : whole elements; running text only is touched
    href : where the glossary lies, seen from the page
    but : a term's name that is not linked: its own entry in the glossary
    """
    told = {n for n, term in enumerate(TERMS) if term.name == but}

    def linked(match: re.Match[str]) -> str:
        number = int(str(match.lastgroup)[1:])
        if number in told:
            return match[0]
        told.add(number)
        return f'<a class="term" href="{html.escape(href)}#{TERMS[number].slug}">{match[0]}</a>'

    done, place, inside = [], 0, 0
    for tag in TAG.finditer(content):
        text = content[place : tag.start()]
        done += [text if inside else _mentions().sub(linked, text), tag[0]]
        place = tag.end()
        name = re.match(r"</?([a-zA-Z0-9]+)", tag[0])
        if name and name[1].lower() in CLOSED:
            inside = max(0, inside + (-1 if tag[0].startswith("</") else 1))
    rest = content[place:]
    return "".join(done) + (rest if inside else _mentions().sub(linked, rest))


def link_page(page: str, href: str) -> str:
    """A whole page, its terms linked within <main>, up to the provenance: what tells of the machine links nothing."""
    head, main, body = page.partition("<main")
    body, end, foot = re.split(r"(<!-- provenance -->|</main>)", body, maxsplit=1) if main else ("", "", "")
    return head + link(main + body, href) + end + foot
