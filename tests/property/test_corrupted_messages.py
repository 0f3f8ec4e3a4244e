from __future__ import annotations

import itertools

import numpy as np

from shared.errors import ContractError
from shared.events.catalogue import TOPICS
from shared.events.ingest import BarsClosed
from tests.contract.test_event_schemas import SAMPLES
from tests.corruption import corrupted

N_MESSAGES = 20_000


def test_twenty_thousand_corrupted_messages_are_decoded_or_refused_with_a_reason() -> None:
    payloads = corrupted(np.random.default_rng(20), SAMPLES)
    kinds = sorted({topic.event for topic in TOPICS.values()}, key=lambda kind: kind.__name__)
    n_refused = 0
    for payload, kind in zip(itertools.islice(payloads, N_MESSAGES), itertools.cycle(kinds)):
        try:
            event = kind.from_bytes(payload)
        except ContractError:
            n_refused += 1
        else:
            # A change that leaves an event, such as another digit of a price, is an event.
            # Of bars any number is one: the checks of bars quarantine what is not finite.
            if not isinstance(event, BarsClosed):
                assert kind.from_bytes(event.to_bytes()) == event
    assert n_refused > 0.95 * N_MESSAGES
