"""Whether a config ties the head to the embedding, and how they are named: as the classes of transformers say."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

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


def tied_names(config: Mapping[str, object], stored: Collection[str]) -> tuple[str | None, str | None]:
    """The names of the embedding and of the head that the model of this config.json can tie; `stored` are the files'.

    Files may leave out the prefix of the model without head. None for both where transformers does not tell.
    """
    import transformers  # noqa: PLC0415  takes two seconds, and most models name the two alike

    transformers.logging.set_verbosity_error()
    kinds: list[Any] = []
    listed = config.get("architectures")
    try:
        with bounded("reading config.json"):
            for name in listed if isinstance(listed, list) else ():
                kinds.append(getattr(transformers, name, None))
            config_class = transformers.CONFIG_MAPPING[str(config["model_type"])]
            kinds.append(transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(config_class, None))
    except WsteerError:
        raise
    except Exception:  # as above
        return None, None
    for kind in kinds:
        pairs = getattr(kind, "_tied_weights_keys", None)
        prefix = f"{getattr(kind, 'base_model_prefix', '')}."
        for pair in pairs.items() if isinstance(pairs, dict) else ():
            # the head is outside of the model that the prefix names
            embedding, head = sorted(map(str, pair), key=lambda name: not name.startswith(prefix))
            for own in (embedding, embedding.removeprefix(prefix)):
                if own in stored:
                    return own, head
            if head in stored:
                return embedding, head
    return None, None
