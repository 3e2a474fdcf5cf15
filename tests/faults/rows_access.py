"""Rows of the fault matrix in which Redis's access rules are in the way."""

from __future__ import annotations

from dataclasses import replace
from time import sleep

from tests.faults.oracle import Report
from tests.faults.requirements import (
    REDELIVERY_SLACK_SECONDS,
    require_few_duplicates,
    require_no_own_exits,
    require_none_failed,
)
from tests.faults.scene import Scene, World
from tests.faults.spec import WorkerSpec
from tests.support.redis_roles import rules_of
from tests.support.redis_users import RedisUser, redis_user


def limited_user(world: World) -> Report:
    """Row 48: the workers' user may do the least, and not INFO; workers are killed, and then what
    the user may do is taken away and given back.
    """
    num_kills, num_rounds = world.pick((2, 1), (10, 5))
    forbidden_seconds = world.pick(3.0, 6.0)
    lease_seconds = 2.0
    with world.scene("limited-user", lease_seconds=lease_seconds) as scene:
        rules = [rule for rule in rules_of("worker", scene.names.namespace) if rule != "+info"]
        with redis_user(world.servers.urls, *rules) as user:
            slots = scene.crew.add(_of(user, scene), count=2)
            with scene.producer.steadily(count=world.pick(60, 900), per_second=15.0):
                for number in range(num_kills):
                    # The other one has waited for a lease by then, as it does without INFO.
                    sleep(lease_seconds + scene.random.uniform(0.6, 1.2))
                    scene.crew.kill(slots[number % 2])
            scene.wait_until_idle(seconds=60)
            for slot in slots:
                scene.crew.wait_until_up(slot)  # one that starts meanwhile would be refused
            for _ in range(num_rounds):
                scene.producer.submit(12, tokens=100)
                user.may()
                scene.events.note("the user may do nothing")
                scene.producer.submit(4)
                sleep(forbidden_seconds)
                user.may(*rules)
                scene.events.note("the user may work again")
                scene.wait_until_idle(seconds=60)
            report = scene.report(f"{num_kills} kill -9 without INFO, {num_rounds} times forbidden")
        slowest = max(report.redeliveries, default=0.0)
        most = lease_seconds + REDELIVERY_SLACK_SECONDS
        report.require(bool(report.redeliveries), "no task of a killed worker came back")
        report.require(slowest <= most, f"redelivered after {slowest:.1f} s, more than {most:g} s")
        # What nobody could renew while all was forbidden is run again.
        require_few_duplicates(report, share=0.2)
        require_none_failed(scene, report)
        require_no_own_exits(report)
        return report


def _of(user: RedisUser, scene: Scene) -> WorkerSpec:
    spec = scene.spec()
    return replace(spec, env={**spec.env, "VISIONQ_BROKER__URL": user.urls.broker_url})
