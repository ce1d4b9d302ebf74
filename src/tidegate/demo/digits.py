"""What the demo classifies: scikit-learn's digits, a small classifier, and the answers due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

Floats = NDArray[np.float64]
Model = Callable[[Floats], Floats]
"""From a batch of images (n, 64) to the probability of each digit (n, 10)."""

# Batches of different sizes take different paths through BLAS, which sums in a different order:
# that moves the last bits (1e-14 of a value here) and must not hide anything larger.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-9, 1e-12


@dataclass(frozen=True)
class Digits:
    """A trained model and the images it has not seen.

    Attributes:
        model: The classifier.
        trained_on: The number of images that it was trained on.
        images: The held-out images, (n, 64), each pixel from 0 to 1.
        labels: The digit that each shows, (n,).
        expected: What the model answers for each when asked for it alone, (n, 10).
    """

    model: Model
    trained_on: int
    images: Floats
    labels: NDArray[np.int64]
    expected: Floats


@dataclass(frozen=True)
class Check:
    """How a run's answers compare with those due.

    Attributes:
        accuracy: The share of answers whose likeliest digit is the one that the image shows.
        wrong: How many answers are not the unbatched model's.
        first_wrong: In words, what is wrong with the first of them; None if there is none.
    """

    accuracy: float
    wrong: int
    first_wrong: str | None


def train(seed: int) -> Digits:
    """Train the classifier on three quarters of the digits.

    Args:
        seed: For the split and for the training.

    Returns:
        The model, with the quarter that was held out.
    """
    pixels, digits = load_digits(return_X_y=True)
    seen, images, seen_labels, labels = train_test_split(
        pixels / 16.0, digits, test_size=0.25, stratify=digits, random_state=seed
    )
    classifier = MLPClassifier(
        hidden_layer_sizes=(256,), learning_rate_init=2e-3, tol=1e-3, random_state=seed
    )
    classifier.fit(seen, seen_labels)
    model: Model = classifier.predict_proba
    return Digits(
        model=model,
        trained_on=len(seen),
        images=np.ascontiguousarray(images),
        labels=labels,
        expected=alone(model, images),
    )


def alone(model: Model, images: Floats) -> Floats:
    """The model's answers, (n, 10), when asked for one image at a time."""
    return np.concatenate([model(images[i : i + 1]) for i in range(len(images))])


def check(data: Digits, asked: NDArray[np.intp], answers: Floats) -> Check:
    """Compare every answer with the unbatched model's and with the image's label.

    Args:
        data: The images, with their labels and the answers due.
        asked: The index of the image of each request, (requests,).
        answers: What each request was answered, (requests, 10); NaN where no answer came.

    Returns:
        The comparison. An answer is right if its likeliest digit is the one expected and each
        probability is equal but for the last bits.
    """
    due = data.expected[asked]
    likeliest = answers.argmax(axis=1)
    right = likeliest == due.argmax(axis=1)
    right &= np.isclose(answers, due, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE).all(axis=1)
    wrong = np.flatnonzero(~right)
    return Check(
        accuracy=float((likeliest == data.labels[asked]).mean()),
        wrong=len(wrong),
        first_wrong=_describe(int(wrong[0]), due, answers) if len(wrong) else None,
    )


def _describe(request: int, due: Floats, answers: Floats) -> str:
    if np.isnan(answers[request]).any():
        return f"request {request} has no complete answer"
    expected, got = int(due[request].argmax()), int(answers[request].argmax())
    return (
        f"request {request} expected digit {expected} with probability "
        f"{due[request, expected]:.12g}, got digit {got} with {answers[request, got]:.12g}"
    )
