"""The OpenAPI description of the server, for one run. Knows labels and limits only."""

from __future__ import annotations

from typing import Any

from ..task.labels import LabelSpace
from .requests import Limits

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong, and what to do."},
        "position": {"type": "integer", "description": "Which text is the reason, from 0, where it is one."},
    },
}
_REFUSALS = {
    400: "The body is not JSON in UTF-8.",
    413: "The request is too large, or has too many texts.",
    415: "The content type is not application/json.",
    422: "The body has another form, or a text cannot be classified.",
    429: "The queue is full; Retry-After says for how many seconds.",
    500: "The classifier failed.",
}


def describe(label_space: LabelSpace, limits: Limits, *, abstains: bool, version: str) -> dict[str, Any]:
    """Return the description.

    Args:
        label_space: The labels.
        limits: How much a request may hold.
        abstains: Whether the run has a target error.
        version: Version of this package.
    """
    refusals = {str(status): _body(text, "Error") for status, text in _REFUSALS.items()}
    texts = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": limits.max_texts}
    asked = {"type": "object", "required": ["texts"], "additionalProperties": False, "properties": {"texts": texts}}
    predictions = {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
    answered = {"type": "object", "required": ["predictions"], "properties": {"predictions": predictions}}
    classify = {
        "summary": "Classify texts",
        "operationId": "predict",
        "requestBody": {"required": True, **_body(f"At most {limits.max_request_bytes:,} bytes.", "Texts")},
        "responses": {"200": _body("An answer for each text, in their order.", "Predictions"), **refusals},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "hf_causal_clf", "version": version, "description": "A text classifier."},
        "paths": {
            "/predict": {"post": classify},
            "/health": {"get": _get("Whether the server answers", "health")},
            "/run": {"get": _get("Labels and limits", "run")},
            "/metrics": {"get": _get("Metrics for Prometheus", "metrics", "text/plain")},
        },
        "components": {
            "schemas": {
                "Texts": asked,
                "Predictions": answered,
                "Prediction": _prediction(label_space, abstains=abstains),
                "Error": _ERROR,
            }
        },
    }


def _prediction(label_space: LabelSpace, *, abstains: bool) -> dict[str, Any]:
    names, probability = list(label_space.names), {"type": "number", "minimum": 0, "maximum": 1}
    label = {"type": "string", "enum": names}
    several = {"type": "array", "items": label}
    fields: dict[str, Any] = {"labels": several} if label_space.multi_label else {"label": label}
    if abstains and label_space.multi_label:
        fields["abstained"] = {**several, "description": "Labels that the run is not sure of, given or not."}
    elif abstains:
        fields = {
            "label": {"type": ["string", "null"], "enum": [*names, None]},
            "abstained": {"type": "boolean", "description": "Whether the run is not sure enough to give a label."},
        }
    of_each = {"type": "object", "properties": dict.fromkeys(names, probability), "required": names}
    fields["probabilities"] = {**of_each, "description": "Calibrated probability of each label."}
    return {"type": "object", "required": list(fields), "properties": fields}


def _body(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _get(summary: str, name: str, kind: str = "application/json") -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": name,
        "responses": {"200": {"description": summary, "content": {kind: {}}}},
    }
