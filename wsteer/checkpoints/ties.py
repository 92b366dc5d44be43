"""Whether a config ties the head to the embedding, as transformers reads it: its classes differ in what they assume."""

import copy
from collections.abc import Mapping

from wsteer.errors import WsteerError
from wsteer.files.limits import bounded


def ties(config: Mapping[str, object]) -> bool:
    """Whether a model of this config.json ties its head to its embedding where the files do not say otherwise.

    A key that is absent means what the class of config assumes (Gemma, GPT-2, Falcon and Cohere tie, Llama does not),
    and some classes of models with towers take `text_config`'s; for these transformers is imported. A config that it
    does not know means what it says.
    """
    text = config.get("text_config")
    given = config.get("tie_word_embeddings")
    if isinstance(given, bool) and not isinstance(text, dict):
        return given
    from transformers import logging  # noqa: PLC0415  takes two seconds, and most configs say what they mean
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: PLC0415

    logging.set_verbosity_error()
    try:
        with bounded("reading config.json"):
            read = CONFIG_MAPPING[str(config["model_type"])].from_dict(copy.deepcopy(dict(config)))
        return bool(getattr(read, "tie_word_embeddings", False))
    except WsteerError:
        raise
    except Exception:  # an unknown or broken config raises errors of many kinds; loading the model will tell
        said = given if given is not None else text.get("tie_word_embeddings") if isinstance(text, dict) else None
        return bool(said)
