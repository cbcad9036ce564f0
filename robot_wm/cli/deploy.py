"""`robot-wm deploy`: drives an arm to the pose in a goal picture, behind governor and watchdog.

This process belongs to the operator: it checks, asks, starts the other processes, and shows their
progress. The arm belongs to the arm server (hardware.arm_server); the model runs in a process of
its own (robot_wm.deployment.policy_process).
"""

from __future__ import annotations

import os
import signal
import sys
import time

from hardware.reasons import Kind
from robot_wm.cli.console import finish, say, say_outcomes
from robot_wm.cli.live import Live, ask_human, single_keys
from robot_wm.deployment.devices import open_device
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.run import DeploySettings, check_deployment
from robot_wm.deployment.session import DeployError, Session
from robot_wm.deployment.settings import with_seed
from robot_wm.files import output_dir
from robot_wm.provenance import describe_run, to_yaml
from robot_wm.types import UserError, plain_settings

SETTINGS = DeploySettings
EXAMPLES = (
    "robot-wm deploy checkpoint=so100_tabletop goal=docs/images/goal.png mode=run",
    "robot-wm deploy robot=lerobot robot.port=/dev/ttyACM0 checkpoint=checkpoint goal=goal.png",
)


def run(settings: DeploySettings) -> None:
    """Checks the settings, asks the operator, runs, and prints the result.

    Args:
        settings: Settings of the deployment.

    Raises:
        UserError: a reason not to arm the arm.
        DeployError: a fault, or the policy process ended.
    """
    # A shell makes commands in the background ignore SIGINT; one that drives an arm must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    check_deployment(settings)
    must_confirm = settings.confirm and settings.moves
    if must_confirm and not sys.stdin.isatty():
        raise UserError("confirm: nobody at a terminal to ask; confirm=false goes without")
    out = output_dir(settings.out)
    robot = build_robot(settings.robot)
    out.mkdir(parents=True, exist_ok=True)
    record = out / f"flight-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    about = {
        "config": to_yaml(plain_settings(settings)),
        "run": describe_run("deploy", settings),
    }
    device_settings = with_seed(settings.robot, settings.seed)
    with open_device(device_settings, robot, say) as device:
        device.wait_ready()
        with Session(settings, about, device, robot, record, Live()) as session:
            ready = session.wait_ready()
            say(f"ready: {ready.what}")
            for note in ready.notes:
                say(f"  {note}")
            if must_confirm:
                ask_human(robot.limits)
            with single_keys():
                result = session.run()
    say(f"{result.ended}; flight record: {record}")
    if not settings.moves:
        say("dry run: nothing was written to the robot; mode=run moves it")
    else:
        say_outcomes(result.outcomes, len(settings.goals))
    finish({**result.figures(), "record": str(record)})
    if result.fault is not None:
        raise DeployError(str(result.fault))
    if result.ended.kind is not Kind.DONE:
        raise DeployError(f"stopped: {result.ended}")
