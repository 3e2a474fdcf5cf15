"""The fault matrix: which row is which function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.faults import (
    rows_access,
    rows_clocks,
    rows_cluster,
    rows_failover,
    rows_host,
    rows_inputs,
    rows_messages,
    rows_mixed,
    rows_outages,
    rows_primaries,
    rows_records,
    rows_redis,
    rows_replicas,
    rows_store,
    rows_upgrade,
    rows_workers,
)
from tests.faults.oracle import Report
from tests.faults.scene import CutShort, World


@dataclass(frozen=True, slots=True)
class Row:
    """`stock_harm` counts what the negative control does; if it is 0, the row proves nothing."""

    title: str
    play: Callable[[World], Report]
    stock_harm: Callable[[Report], int] | None = None


def _lost(report: Report) -> int:
    return len(report.lost)


def _lost_or_ended(report: Report) -> int:
    return len(report.lost) + len(report.own_exits)


def _run_twice(report: Report) -> int:
    return report.duplicates


def play(number: int, world: World) -> Report:
    """The row's report, also of a scene that could not be played to its end."""
    try:
        return ROWS[number].play(world)
    except CutShort as error:
        return error.report


ROWS: Mapping[int, Row] = {
    1: Row("kill -9, at random", rows_workers.killed_at_random),
    2: Row("kill -9, in the claim", rows_workers.killed_in_the_claim, _lost),
    3: Row("kill -9, after the put", rows_workers.killed_after_the_put),
    4: Row("stopped past the lease", rows_workers.stopped_past_the_lease),
    5: Row("device hangs", rows_workers.device_hangs),
    6: Row("poisonous task", rows_workers.poisoned),
    7: Row("device out of memory", rows_workers.out_of_memory),
    8: Row("device lost", rows_workers.device_lost),
    9: Row("model cannot be loaded", rows_workers.cannot_load),
    10: Row("memory eaten", rows_host.memory_eaten),
    11: Row("Redis killed", rows_redis.redis_killed, _lost_or_ended),
    12: Row("Redis full", rows_redis.redis_full),
    13: Row("Redis's disk full", rows_redis.redis_disk_full),
    14: Row("Redis slow", rows_redis.redis_slow),
    15: Row("connections cut", rows_redis.connections_reset),
    16: Row("connections half-open", rows_redis.half_open, _lost),
    17: Row("producer cut off", rows_redis.producer_cut_off),
    18: Row("reply to publish lost", rows_redis.reply_to_publish_lost),
    19: Row("failed over", rows_failover.failed_over),
    20: Row("queues flushed", rows_redis.queues_flushed),
    21: Row("clock ahead", rows_redis.clock_is_ahead, _run_twice),
    22: Row("delivered twice", rows_messages.delivered_twice),
    23: Row("corrupted messages", rows_messages.corrupted),
    24: Row("oversized", rows_messages.oversized),
    25: Row("store errs", rows_store.store_errs),
    26: Row("store down", rows_store.store_down),
    27: Row("store slow", rows_store.store_slow),
    28: Row("input missing", rows_messages.input_missing),
    29: Row("hostile pictures", rows_inputs.hostile_pictures),
    30: Row("foreign addresses", rows_inputs.foreign_addresses),
    31: Row("worker's disk full", rows_host.disk_full),
    32: Row("rolling restarts", rows_workers.rolling_restarts),
    33: Row("longer than the grace", rows_workers.longer_than_the_grace),
    34: Row("scaled up and down", rows_workers.scaled_up_and_down),
    35: Row("cancelled", rows_messages.cancelled),
    36: Row("mixed", rows_mixed.mixed),
    38: Row("demoted but alive", rows_primaries.demoted_but_alive),
    39: Row("named by sentinels", rows_primaries.named_by_sentinels),
    40: Row("replicas confirm", rows_replicas.replicas_confirm),
    41: Row("one slot of a cluster", rows_cluster.one_slot),
    42: Row("records gone", rows_records.records_gone),
    43: Row("store misbehaves", rows_store.store_misbehaves),
    44: Row("Redis's clock jumps", rows_clocks.redis_clock_jumps),
    45: Row("clocks off by hours", rows_clocks.wrong_clocks),
    46: Row("upgraded while it runs", rows_upgrade.upgraded),
    47: Row("Redis away for long", rows_outages.away_for_long),
    48: Row("user of Redis limited", rows_access.limited_user),
}
"""By the numbers of the matrix. Row 37 is `soak`."""
