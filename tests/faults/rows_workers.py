"""Rows of the fault matrix in which workers die, hang, stop or come and go."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep

from tests.faults.acts import first_exit_within, first_take, spec_with
from tests.faults.oracle import Report
from tests.faults.requirements import (
    REDELIVERY_SLACK_SECONDS,
    require_few_duplicates,
    require_no_own_exits,
    require_none_failed,
    require_quick_redelivery,
)
from tests.faults.scene import Scene, World, grace_env
from tests.faults.spec import DIE_AFTER_PUT_ONCE, HANG_ONCE, POISON, SPOIL_ONCE
from tests.support.waiting import wait_until
from visionq_worker.app import EXIT_BROKEN, EXIT_START, GIVE_BACK_SECONDS


def killed_at_random(world: World) -> Report:
    """Row 1: kill -9 of workers at random moments; the others take their tasks."""
    count, rate, num_kills = world.pick((80, 16.0, 4), (3000, 25.0, 52))
    pauses = world.pick((0.6, 1.2), (1.5, 3.0))
    with world.scene("killed-at-random") as scene:
        slots = scene.crew.add(scene.spec(), count=2)
        with scene.producer.steadily(count=count, per_second=rate):
            for _ in range(num_kills):
                sleep(scene.random.uniform(*pauses))
                scene.crew.kill(scene.random.choice(slots))
        report = scene.report(f"{num_kills} kill -9")
        require_quick_redelivery(scene, report)
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def killed_in_the_claim(world: World) -> Report:
    """Row 2: an idle worker is stopped, a task published, the worker killed."""
    num_rounds = world.pick(4, 20)
    with world.scene("killed-in-the-claim", tokens=(5, 10)) as scene:
        (slot,) = scene.crew.add(scene.spec())
        for _ in range(num_rounds):
            scene.crew.wait_until_up(slot)
            sleep(0.4)  # it waits for a message by then, in Redis or by looking again and again
            scene.crew.freeze(slot)
            scene.producer.submit()
            sleep(0.1)
            scene.crew.kill(slot)
        report = scene.report(f"{num_rounds} kill -9")
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def killed_after_the_put(world: World) -> Report:
    """Row 3: the result is stored, and the worker dies before it has told anybody."""
    num_fatal = world.pick(2, 10)
    with world.scene("killed-after-the-put", concurrency=4) as scene:
        scene.crew.add(scene.spec(), count=2)
        fatal: list[str] = []
        for _ in range(num_fatal):
            scene.producer.submit(2)
            fatal += scene.producer.submit(word=DIE_AFTER_PUT_ONCE)
            sleep(0.3)
        report = scene.report(f"{num_fatal} kill -9 after the put")
        # Before its own put, a task may have died with the worker that another one took down.
        stored_at = {task_id: puts[0].at for task_id, puts in scene.gate.puts().items()}
        again = sum(
            any(line.at > stored_at[task_id] for line in scene.journal.of("run", task_id=task_id))
            for task_id in fatal
            if task_id in stored_at
        )
        report.require(again == 0, f"{again} of {num_fatal} stored tasks ran again")
        # One death may be that of two tasks, whose results were stored at once.
        num_died = len(list(Path(scene.spec().folder).glob("died-*")))
        report.require(num_died == num_fatal, f"{num_died} of {num_fatal} tasks took a worker down")
        report.require(0 < len(report.own_exits) <= num_fatal, f"{len(report.own_exits)} deaths")
        return report


def stopped_past_the_lease(world: World) -> Report:
    """Row 4: SIGSTOP for longer than the lease; the one that was thought dead comes back."""
    num_rounds, lease_seconds = world.pick((1, 2.0), (5, 4.0))
    long_tokens = int(100 * lease_seconds * 2.5)
    with world.scene("stopped-past-the-lease", lease_seconds=lease_seconds) as scene:
        slots = scene.crew.add(scene.spec(), count=2)
        zombies = []
        for number in range(num_rounds):
            tasks = scene.producer.submit(6, tokens=long_tokens)
            for task_id in tasks:
                scene.wait_until_running(task_id)
            slot = slots[number % 2]
            held = [task for task in scene.journal.in_hand(slot.pid) if task in tasks]
            stop_seconds = world.pick(2.0, scene.random.uniform(1.2, 2.0)) * lease_seconds
            scene.crew.freeze(slot)
            sleep(stop_seconds)
            scene.crew.thaw(slot)
            thawed_at = monotonic()
            # If it comes back before the sweep, its leases are its own again, and it goes on.
            lost = [task for task in held if _is_taken_over(scene, task, slot.pid, by=thawed_at)]
            scene.producer.submit(2)
            scene.wait_until_idle(seconds=60)
            zombies += [
                line.at - thawed_at
                for task_id in lost
                for line in scene.journal.of("done", task_id=task_id, pid=slot.pid)
                if line.at > thawed_at
            ]
        report = scene.report(f"{num_rounds} SIGSTOP of {lease_seconds * 2:g} s at most")
        require_few_duplicates(report)
        report.require(bool(zombies), "no task of the stopped worker was taken over")
        report.within("zombie let go after", max(zombies, default=0), lease_seconds / 3 + 1)
        require_no_own_exits(report)
        return report


def _is_taken_over(scene: Scene, task_id: str, pid: int, *, by: float) -> bool:
    """Whether another worker has the task at that time."""
    takes = scene.journal.of("take", task_id=task_id)
    return any(line.pid != pid and line.at < by for line in takes)


def device_hangs(world: World) -> Report:
    """Row 5: a step never ends; the watchdog ends the worker, and others take over."""
    hang_seconds, retry_seconds = 1.0, 0.2
    with world.scene("device-hangs") as scene:
        spec = spec_with(scene, hang_seconds=hang_seconds)
        scene.crew.add(spec, count=2)
        scene.producer.submit(world.pick(10, 100))
        (task_id,) = scene.producer.submit(word=HANG_ONCE)
        scene.producer.submit(world.pick(10, 100))
        hung = first_take(scene, task_id)
        gone = scene.crew.wait_until_gone(hung.pid, seconds=60)
        report = scene.report("1 hung step", patience_seconds=20)
        report.require(gone.code == EXIT_BROKEN, f"exit code {gone.code}, not {EXIT_BROKEN}")
        most = hang_seconds + retry_seconds + GIVE_BACK_SECONDS + 2
        report.within("seconds to the exit", gone.at - hung.at, most)
        report.require(len(report.own_exits) == 1, f"{len(report.own_exits)} exits")
        return report


def poisoned(world: World) -> Report:
    """Row 6: a task that kills whoever runs it is given up, and the rest flows."""
    max_attempts = world.pick(3, 5)
    num_others = world.pick(20, 200)
    settings = {"VISIONQ_BROKER__MAX_ATTEMPTS": str(max_attempts)}
    with world.scene("poisoned", settings=settings) as scene:
        scene.crew.add(scene.spec(), count=2)
        scene.producer.submit(num_others // 2)
        (poison,) = scene.producer.submit(word=POISON)
        scene.producer.submit(num_others // 2)
        report = scene.report("1 poisonous task", patience_seconds=20)
        deaths = [gone for gone in report.own_exits if poison in gone.in_hand]
        report.notes.append(f"{len(deaths)} deaths")
        report.require(len(deaths) == max_attempts, f"{len(deaths)} deaths, not {max_attempts}")
        report.require(len(report.own_exits) == len(deaths), "somebody else died, too")
        failure = scene.client.status(poison).failure
        report.require(failure is not None, "the poisonous task has not failed")
        others = [task_id for task_id in scene.producer.accepted if task_id != poison]
        statuses = scene.client.status_many(others)
        failed = sum(status.failure is not None for status in statuses)
        report.require(failed == 0, f"{failed} innocent tasks failed")
        return report


def out_of_memory(world: World) -> Report:
    """Row 7: the device holds fewer sequences than run; steps are split, nobody notices."""
    count = world.pick(40, 300)
    with world.scene("out-of-memory", concurrency=16) as scene:
        scene.crew.add(spec_with(scene, fits_at_most=5))
        scene.producer.submit(count)
        report = scene.report("no step of more than 5 fits")
        require_none_failed(scene, report)
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def device_lost(world: World) -> Report:
    """Row 8: a fatal CUDA error; the worker leaves with 70, and its tasks are run elsewhere."""
    with world.scene("device-lost") as scene:
        scene.crew.add(scene.spec(), count=2)
        scene.producer.submit(world.pick(10, 100))
        scene.producer.submit(word=SPOIL_ONCE)
        scene.producer.submit(world.pick(10, 100))
        report = scene.report("1 lost device", patience_seconds=20)
        wait_until(scene.crew.own_exits, seconds=20, what="the worker to leave")
        codes = [gone.code for gone in scene.crew.own_exits()]
        report.require(codes == [EXIT_BROKEN], f"exit codes {codes}, not [{EXIT_BROKEN}]")
        require_none_failed(scene, report)
        return report


def cannot_load(world: World) -> Report:
    """Row 9: a worker that cannot load its model ends, and has taken nothing."""
    with world.scene("cannot-load") as scene:
        scene.producer.submit(5)
        (slot,) = scene.crew.add(spec_with(scene, can_load=False), is_awaited=False)
        slot.is_kept = False
        gone = scene.crew.wait_until_gone(slot.pid)
        num_waiting = scene.raw.llen(scene.names.queue("interactive"))
        scene.crew.add(scene.spec())
        report = scene.report("1 model that cannot be loaded")
        report.require(gone.code == EXIT_START, f"exit code {gone.code}, not {EXIT_START}")
        report.require(num_waiting == 5, f"{num_waiting} of 5 messages were left")
        return report


def rolling_restarts(world: World) -> Report:
    """Row 32: SIGTERM, one worker after the other, under load."""
    count, rate, num_restarts = world.pick((60, 15.0, 3), (900, 20.0, 24))
    with world.scene("rolling-restarts") as scene:
        slots = scene.crew.add(scene.spec(), count=2)
        with scene.producer.steadily(count=count, per_second=rate):
            for number in range(num_restarts):
                sleep(world.pick(0.3, 0.8))
                slot = slots[number % 2]
                scene.crew.wait_until_gone(scene.crew.terminate(slot))
                scene.crew.wait_until_up(slot)
        report = scene.report(f"{num_restarts} SIGTERM")
        codes = {gone.code for gone in scene.crew.exits}
        report.require(codes == {0}, f"exit codes {sorted(codes)}")
        unfinished = sum(len(gone.in_hand) for gone in scene.crew.exits)
        report.require(not unfinished, f"{unfinished} tasks were left unfinished")
        require_few_duplicates(report)
        return report


def longer_than_the_grace(world: World) -> Report:
    """Row 33: SIGTERM while a task runs that takes longer than the worker may; it is handed on."""
    grace_seconds = 2.0
    with world.scene("longer-than-the-grace", settings=grace_env(grace_seconds)) as scene:
        first, _ = scene.crew.add(scene.spec(), count=2)
        long = scene.producer.submit(8, tokens=800)
        for task_id in long:
            scene.wait_until_running(task_id)
        held = set(scene.journal.in_hand(first.pid))
        told_at = monotonic()
        pid = scene.crew.terminate(first)
        sleep(grace_seconds)
        gone_at = first_exit_within(scene, pid, seconds=REDELIVERY_SLACK_SECONDS)
        report = scene.report(f"1 SIGTERM, grace {grace_seconds:g} s", patience_seconds=25)
        report.require(gone_at is not None, "the worker was still there when its grace was over")
        again = [
            line.at - told_at - grace_seconds
            for line in scene.journal.of("take")
            if line.task_id in held and line.pid != pid and line.at > told_at
        ]
        report.require(len(again) == len(held) > 0, f"{len(again)} of {len(held)} handed on")
        report.within("handed on after the grace in", max(again, default=0.0), 2.0)
        return report


def scaled_up_and_down(world: World) -> Report:
    """Row 34: 1, then 4, then 1 worker under load; whoever comes gets its share."""
    count, rate = world.pick((120, 60.0), (1500, 60.0))
    with world.scene("scaled-up-and-down", concurrency=4) as scene:
        first = scene.crew.add(scene.spec())
        with scene.producer.steadily(count=count, per_second=rate):
            sleep(world.pick(0.3, 3.0))
            more = scene.crew.add(scene.spec(), count=3)
            sleep(world.pick(1.0, 10.0))
            shares = {slot.name: len(scene.journal.of("run", pid=slot.pid)) for slot in more}
            for slot in more:
                scene.crew.retire(slot)
        report = scene.report("1, 4, 1 workers")
        report.notes.append(f"shares {sorted(shares.values())}")
        report.require(min(shares.values()) > 0, f"a worker stood idle: {shares}")
        require_few_duplicates(report)
        assert first
        return report
