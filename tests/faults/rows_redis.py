"""Rows of the fault matrix in which Redis, or the way to it, fails."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic, sleep

from tests.faults.acts import (
    cut_connections,
    freeze_all,
    full_disk_of_redis,
    is_refused,
    redis_setting,
    restart_redis,
    seconds_to_next_take,
    submit_until_accepted,
    write_at_once,
)
from tests.faults.oracle import Report
from tests.faults.requirements import (
    require_few_duplicates,
    require_no_own_exits,
    require_one_run_each,
)
from tests.faults.scene import Scene, World
from tests.support.waiting import wait_until
from visionq.records import LOOK_SECONDS

BACK_SECONDS = 5.0
"""After an outage the workers take tasks again within this time."""
HALF_OPEN_SECONDS = 15.0
MUTE_SECONDS = 5.0
"""The longest that a submit may take when Redis does not answer."""


def redis_killed(world: World) -> Report:
    """Row 11: Redis is killed and started again, with tasks in flight."""
    count, rate, num_cycles = world.pick((80, 12.0, 3), (700, 10.0, 25))
    down = world.pick((0.1, 1.0), (0.1, 5.0))
    with world.scene("redis-killed", concurrency=8, tokens=(30, 80)) as scene:
        scene.crew.add(scene.spec(), count=2)
        write_at_once(scene)
        backs = []
        with scene.producer.steadily(count=count, per_second=rate):
            for _ in range(num_cycles):
                sleep(world.pick(1.0, 1.5))
                restart_redis(scene, scene.random.uniform(*down))
                backs.append(seconds_to_next_take(scene))
        report = scene.report(f"{num_cycles} kill -9 of Redis", patience_seconds=15)
        report.within("back after", max(backs), BACK_SECONDS)
        require_few_duplicates(report, share=0.01)
        require_no_own_exits(report)
        return report


def redis_full(world: World) -> Report:
    """Row 12: Redis refuses writes; submits fail, workers wait, and all goes on."""
    full_seconds = world.pick(5.0, 10.0)  # a report is tried for 2.4 s, then slots are free
    with world.scene("redis-full", tokens=(50, 150)) as scene:
        slots = scene.crew.add(scene.spec(), count=2)
        scene.producer.submit(40)  # more than both have in hand: they try to take the others
        sleep(0.3)
        with redis_setting(scene, "maxmemory", "1mb"):
            scene.events.note("Redis is full")
            began = monotonic()
            refused = is_refused(scene)
            seconds = monotonic() - began
            scene.crew.kill(slots[0])  # the next one starts while Redis is full
            sleep(full_seconds)
        scene.events.note("Redis has room")
        scene.producer.submit(20)
        report = scene.report(f"{full_seconds:g} s without memory", patience_seconds=20)
        report.require(refused, "a submit was accepted")
        report.within("refused after", seconds, MUTE_SECONDS)
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def redis_disk_full(world: World) -> Report:
    """Row 13: Redis cannot write its log and refuses writes until it can; all goes on by itself."""
    full_seconds = world.pick(3.5, 20.0)  # as in row 12
    with (
        world.scene("redis-disk-full", tokens=(30, 90)) as scene,
        # Redis ends itself when it cannot write at once what is to be written at once.
        redis_setting(scene, "appendfsync", "everysec"),
    ):
        scene.crew.add(scene.spec(), count=2)
        scene.producer.submit(world.pick(40, 400))  # more than both have in hand
        sleep(0.3)
        with full_disk_of_redis(scene):
            scene.events.note("Redis's disk is full")
            wait_until(lambda: not _can_write(scene), what="Redis to notice that its disk is full")
            began = monotonic()
            refused = is_refused(scene)
            seconds = monotonic() - began
            sleep(full_seconds)
            is_still_full = not _can_write(scene)
        scene.events.note("Redis's disk has room")
        wait_until(lambda: _can_write(scene), what="Redis to notice that its disk has room")
        scene.producer.submit(world.pick(10, 200))
        report = scene.report(f"{full_seconds:g} s without disk", patience_seconds=20)
        report.require(refused and is_still_full, "the disk was not full")
        report.within("refused after", seconds, MUTE_SECONDS)
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def _can_write(scene: Scene) -> bool:
    state: dict[str, str] = scene.raw.info("persistence")
    return state["aof_last_write_status"] == "ok"


def redis_slow(world: World) -> Report:
    """Row 14: replies come late, but well within the lease."""
    lease_seconds, delay_seconds = 6.0, world.pick(0.3, 1.0)
    with world.scene("redis-slow", lease_seconds=lease_seconds, tokens=(50, 150)) as scene:
        spec = replace(scene.spec(through_proxy=True))
        scene.crew.add(spec, count=2)
        scene.redis_of_workers.delay(delay_seconds)
        scene.producer.submit(world.pick(8, 60), tokens=int(lease_seconds * 1.3 * 100))
        report = scene.report(f"{delay_seconds:g} s per reply", patience_seconds=40)
        scene.redis_of_workers.passing()
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def connections_reset(world: World) -> Report:
    """Row 15: every connection to Redis is cut, again and again."""
    count, rate, num_cuts = world.pick((80, 16.0, 10), (1500, 25.0, 85))
    with world.scene("connections-reset") as scene:
        scene.crew.add(scene.spec(), count=2)
        with scene.producer.steadily(count=count, per_second=rate):
            for _ in range(num_cuts):
                sleep(scene.random.uniform(0.2, 0.8))
                cut_connections(scene)
        report = scene.report(f"{num_cuts} cuts of all connections")
        require_few_duplicates(report, share=0.005)
        require_no_own_exits(report)
        return report


def half_open(world: World) -> Report:
    """Row 16: the connections of idle workers go silent, and nobody tells them."""
    num_rounds, num_tasks = world.pick((1, 4), (4, 5))
    with world.scene("half-open") as scene:
        scene.crew.add(scene.spec(through_proxy=True))
        backs = []
        for _ in range(num_rounds):
            sleep(1.3)  # a stock worker asks anew each second, and would not ask just then
            scene.events.note("the connections are frozen")
            scene.redis_of_workers.freeze()
            began = monotonic()
            scene.producer.submit(num_tasks)
            scene.drain(patience_seconds=HALF_OPEN_SECONDS + 10)
            backs.append(monotonic() - began)
        report = scene.report(f"{num_rounds} times half-open", patience_seconds=5)
        report.within("done after", max(backs), HALF_OPEN_SECONDS)
        require_no_own_exits(report)
        return report


def producer_cut_off(world: World) -> Report:
    """Row 17: Redis refuses the producer, or does not answer; the same key again is one task."""
    with world.scene("producer-cut-off") as scene:
        scene.crew.add(scene.spec())
        scene.producer.submit(2)
        slowest = 0.0
        for harm in (scene.redis_of_producer.refuse, lambda: freeze_all(scene)):
            key = scene.producer.new_key()
            harm()
            began = monotonic()
            refused = is_refused(scene, key)
            slowest = max(slowest, monotonic() - began)
            scene.redis_of_producer.passing()
            assert refused, "the proxy did no harm"
            submit_until_accepted(scene, key)
        report = scene.report("refused, mute")
        report.within("error after", slowest, MUTE_SECONDS)
        report.require(report.accepted == 4, f"{report.accepted} tasks for 4 keys")
        require_one_run_each(scene, report)
        return report


def reply_to_publish_lost(world: World) -> Report:
    """Row 18: the message is in the queue, and the producer is not told; it submits again."""
    count = world.pick(2, 10)
    with world.scene("reply-to-publish-lost") as scene:
        scene.crew.add(scene.spec())
        scene.producer.submit(2)
        for _ in range(count):
            key = scene.producer.new_key()
            scene.redis_of_producer.swallow_replies_to(b"LPUSH")
            assert is_refused(scene, key), "the proxy did no harm"
            scene.redis_of_producer.passing()
            submit_until_accepted(scene, key)
        report = scene.report(f"{count} replies lost")
        report.require(report.accepted == 2 + count, f"{report.accepted} tasks, not {2 + count}")
        require_one_run_each(scene, report)
        return report


def queues_flushed(world: World) -> Report:
    """Row 20: the queues are emptied by somebody; the records say what is missing."""
    count = world.pick(10, 200)
    with world.scene("queues-flushed") as scene:
        scene.producer.submit(count)
        scene.raw.delete(scene.names.queue("interactive"))
        began = monotonic()
        scene.crew.add(scene.spec(), count=2)
        report = scene.report("1 DEL of the queue", patience_seconds=2 * LOOK_SECONDS + 10)
        report.within("all back after", monotonic() - began, 60)
        return report


def clock_is_ahead(world: World) -> Report:
    """Row 21: a worker's clock is a minute off; nobody's tasks are taken from them."""
    count = world.pick(6, 24)
    long_tokens = 300  # with a stock worker's lease of 2 s there is time enough for a theft
    with world.scene("clock-is-ahead", concurrency=4) as scene:
        skews = world.pick((0.0, 60.0), (0.0, 60.0, -60.0))
        for skew in skews:
            scene.crew.add(replace(scene.spec(), skew_seconds=skew, lease_seconds=30.0))
        scene.producer.submit(count, tokens=long_tokens)
        report = scene.report(f"clocks off by {max(skews):g} s", patience_seconds=20)
        starts = len(scene.journal.of("run"))
        report.require(starts == report.accepted, f"{starts} starts of {report.accepted} tasks")
        return report
