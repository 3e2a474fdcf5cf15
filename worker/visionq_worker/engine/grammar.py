"""The one door to llguidance: from a schema to the tokens that may come next.

A grammar allows a stop token where the document is complete, and there only. What it gives is exact
for the tokens' bytes, so that the text of a finished answer parses whatever the model would have
liked to say. Schemas arrive in their strict form (`visionq.schemas`): what the library does with
the rest of JSON Schema is not relied on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
import torch
from tokenizers import Tokenizer

from visionq_worker.engine.errors import RequestInvalid

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

FORM: JsonCompileOptions = {
    # As Python writes JSON on one line, which is how models have mostly seen it.
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    # No \u: it would give a key a second spelling, and half a surrogate pair could be written.
    "json_allowed_escapes": 'nrbtf\\"',
}

FREELY_CUT = '%llguidance {"no_forcing": true}\nstart: %json '
"""Before a schema: any tokens that say the text, where there is but one text to be said. The
library would take those that the tokenizer makes of it."""


class Grammars:
    """Grammars over one vocabulary. Any thread.

    Of a tokenizer with merges, the text that a schema prescribes has the tokens it would have in a
    prompt, as the model has seen it. Without them it is the model that chooses: a prompt is single
    characters then, and phrases are for answers alone.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop_token_ids: Iterable[int], num_vocabulary: int
    ) -> None:
        """Takes half a second for 32,000 tokens."""
        self._num_vocabulary = num_vocabulary
        description = _description(tokenizer)
        self._has_merges = bool(description["model"]["merges"])
        self._tokens = llguidance.LLTokenizer(
            json.dumps(description), n_vocab=num_vocabulary, eos_token=sorted(stop_token_ids)
        )

    def mask(self, schema: Mapping[str, object]) -> SchemaMask:
        """The mask of one answer. Raises `RequestInvalid` for a schema that nothing fits."""
        if self._has_merges:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(dict(schema), overrides=FORM)
        else:
            written = json.dumps({**schema, "x-guidance": FORM})
            grammar = llguidance.LLMatcher.grammar_from_lark(FREELY_CUT + written)
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            reason = matcher.get_error().partition("\n")[0]
            raise RequestInvalid(f"the schema cannot be enforced: {reason}")
        return SchemaMask(matcher, self._num_vocabulary)


class SchemaMask:
    """A `LogitMask` for one request: follows its answer, token by token. One thread at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, num_vocabulary: int) -> None:
        self._matcher = matcher
        self._num_vocabulary = num_vocabulary
        # One bit per token, in whole words.
        self._bits = np.zeros((num_vocabulary + 31) // 32, dtype=np.int32)
        self._num_taken = 0
        self._allowed: torch.Tensor | None = None

    def allowed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(vocabulary,) bool. Raises `GrammarFailed`, of which the answer cannot recover."""
        fresh = list(token_ids[self._num_taken :])
        if self._allowed is None or fresh:
            if not self._matcher.consume_tokens(fresh):
                raise GrammarFailed(self._matcher.stop_reason())
            self._num_taken += len(fresh)
            self._allowed = self._compute()
        return self._allowed

    def _compute(self) -> torch.Tensor:
        # Lets go of the interpreter's lock.
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise GrammarFailed(self._matcher.stop_reason())
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        return torch.from_numpy(bits[: self._num_vocabulary].view(np.bool_))


def _description(tokenizer: Tokenizer) -> dict[str, Any]:
    """As in tokenizer.json, but no text of a document is ever an added token's.

    They are named with a control character, which documents only hold escaped. Under their own
    names, the library would write the text `</s>` with the stop token, and the answer ended there.
    """
    description: dict[str, Any] = json.loads(tokenizer.to_str())
    model = description["model"]
    names = {token["content"]: f"\0{token['id']}" for token in description["added_tokens"]}
    for token in description["added_tokens"]:
        token.update(content=names[token["content"]], special=True)
    model["vocab"] = {names.get(text, text): number for text, number in model["vocab"].items()}
    model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return description


class GrammarFailed(Exception):
    """The grammar became too complex on the way, or the answer left it.

    Only the kind of the failure is told: the library's message quotes the answer.
    """
