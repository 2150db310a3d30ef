"""A finished run behind HTTP or on a page, and who asks it from elsewhere. Knows `TextClassifier`, no kind of model."""

from .remote import RemoteClassifier as RemoteClassifier
