"""Fine-tune decoder-only language models for text classification, embedding-based and instruction-based.

Importing registers the Auto classes and does nothing else.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from .classifier import TextClassifier
from .embedding.collator import ClassificationCollator
from .embedding.configuration import CausalLMForLastTokenClassificationConfig
from .embedding.model import CausalLMForLastTokenClassification
from .instruction.collator import VerbalizerCollator
from .instruction.scorer import LabelScorer
from .task.documents import DocumentEncoder
from .task.labels import LabelSpace
from .task.prompts import PromptTemplate
from .task.verbalizer import Verbalizer

__version__ = "0.1.0"

__all__ = [
    "CausalLMForLastTokenClassification",
    "CausalLMForLastTokenClassificationConfig",
    "ClassificationCollator",
    "DocumentEncoder",
    "LabelScorer",
    "LabelSpace",
    "PromptTemplate",
    "TextClassifier",
    "Verbalizer",
    "VerbalizerCollator",
]

AutoConfig.register(CausalLMForLastTokenClassificationConfig.model_type, CausalLMForLastTokenClassificationConfig)
AutoModel.register(CausalLMForLastTokenClassificationConfig, CausalLMForLastTokenClassification)
AutoModelForSequenceClassification.register(
    CausalLMForLastTokenClassificationConfig, CausalLMForLastTokenClassification
)
