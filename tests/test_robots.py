"""Arms as values: the SO-100, Kinova's Jaco, and what is none."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hardware.governor import Governor
from hardware.supervisor import SupervisorSettings
from robot_wm.cli import main
from robot_wm.cli.config import load_command
from robot_wm.contracts import check_env, check_robot, check_task
from robot_wm.deployment.robots import build_robot, find_arm
from robot_wm.deployment.simulation import build_simulation
from robot_wm.kinematics import Gripper
from robot_wm.kinematics.mjcf import load_chain
from robot_wm.robots import jaco, make_arm, register_arm, so100
from robot_wm.runtime import run_episode
from robot_wm.types import UserError
from sim_envs.reach import ReachTask
from sim_envs.scene import Block, Camera, stand_of
from sim_envs.tabletop import Tabletop

ARMS = {"so100": so100, "jaco": jaco}


@pytest.fixture(params=sorted(ARMS))
def arm(request):
    return ARMS[request.param]()


def test_arms_keep_the_contract(arm):
    check_robot(lambda: arm)


def elsewhere(arm):
    return replace(arm, workspace_high=arm.workspace_high + [0.5, 0, 0, 0])


def low_box(arm):
    return arm.with_limits(box_high=np.array([0.9, 0.7, 0.2]))


def no_servo(arm):
    return replace(arm, xml=re.sub(r"<position [^>]*joint=.Jaw.[^>]*/>", "", arm.xml))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (elsewhere, "out of reach"),
        (low_box, "outside the box"),
        (lambda arm: replace(arm, gripper=Gripper((5,), -0.1)), "its state is"),
        (no_servo, "xml"),
    ],
)
def test_check_robot_sees_a_broken_arm(spoil, why):
    with pytest.raises(AssertionError, match=why):
        check_robot(lambda: spoil(so100()))


def test_values_that_are_no_arm_are_refused():
    arm = so100()
    for changes, why in (
        ({"home": np.zeros(5)}, "home"),
        ({"home": np.full(6, 9.0)}, "beyond the joints"),
        ({"workspace_low": arm.workspace_high}, "workspace_low"),
        ({"gripper": Gripper((6,), 0.1)}, "gripper"),
        ({"limits": make_arm("jaco").limits}, "limits"),
    ):
        with pytest.raises(ValueError, match=why):
            replace(arm, **changes)
    with pytest.raises(ValueError, match="want some of"):
        arm.with_limits(tip_sped=1.0)
    for wrong in (-1.0, float("nan"), True, "0.1", [0.1, 0.1]):
        with pytest.raises(ValueError, match="tip_speed"):
            arm.with_limits(tip_speed=wrong)
    for wrong in (True, [True, *[1.0] * 5], [1.0, None, *[1.0] * 4], [1.0] * 5):
        with pytest.raises(ValueError, match="max_speed"):
            arm.with_limits(max_speed=wrong)
    for word in ("tip_speed=true", "box_low=[true,0,0]", "tick_s=fast"):
        words = ["checkpoint=x", "goal=y", f"robot.limits.{word}"]
        with pytest.raises(ValueError, match=word.partition("=")[0]):
            build_robot(load_command("deploy", words).robot)


def test_the_gripper_opens_as_far_as_it_says(arm):
    for opening in np.linspace(arm.workspace_low[3], arm.workspace_high[3], 5):
        joints = arm.opened(arm.home, opening)
        assert arm.state(joints)[3] == pytest.approx(opening, abs=1e-9)
        again = arm.with_closed(arm.home, arm.closed(joints))
        np.testing.assert_allclose(again, joints, atol=1e-9)


def test_the_servos_follow_what_the_governor_lets_through(arm):
    """An arm that may accelerate faster than its motors can overshoots, and is called stuck."""
    env, settings, rng = (
        Tabletop(arm, image_size=32),
        SupervisorSettings(),
        np.random.default_rng(0),
    )
    env.reset(0)
    governor = Governor(arm.limits, arm.chain.corners, env.joints())
    steps = round(arm.limits.tick_s / env.physics.timestep_s)
    for _ in range(10):
        wish = rng.uniform(arm.workspace_low, arm.workspace_high)
        joints = arm.opened(arm.reach(wish[:3], governor.joints)[0], wish[3])
        still = 0
        while still < 20:
            away = np.clip(joints - governor.joints, *np.outer((-0.9, 0.9), arm.limits.max_jump))
            command = governor.step(governor.joints + away)
            env.command(command.joints)
            env.physics.step(steps)
            behind = np.abs(env.joints() - command.joints).max()
            assert behind < settings.tracking_error_rad / 2
            still = 0 if command.speed.any() else still + 1
        assert behind < settings.start_error_rad / 2
    env.close()


def test_another_arm_reaches_through_its_governor():
    simulation = build_simulation(load_command("collect", ["env=jaco_reach", "out=x"]).env)
    assert simulation.name == "jaco_reach"
    for episode in simulation.episodes("5000", 3):
        goal = simulation.task.start(episode)
        before = simulation.task.judge()
        run_episode(simulation.env, simulation.demonstrator(), goal, num_steps=20)
        judged = simulation.task.judge()
        assert judged.success and judged.cost < 0.01 < before.cost
    simulation.env.close()


def test_another_arm_keeps_the_contracts():
    check_env(lambda: Tabletop(jaco(), image_size=32))
    check_task(lambda: ReachTask(Tabletop(jaco(), image_size=32)))


def test_several_objects_and_cameras():
    blocks = (Block("cube"), Block("brick", half_size=(0.03, 0.01, 0.01), position=(0.2, 0.1)))
    cameras = (
        Camera("front", (0.58, -0.36, 0.50), (0.18, -0.02, 0.14)),
        Camera("wrist", (0.0, 0.02, 0.06), (0.0, -0.1, 0.0), fovy_deg=70, on_tool=True),
    )

    def make():
        return Tabletop(
            so100(), objects=blocks, cameras=cameras, image_size=32, random_appearance=True
        )

    check_env(make)
    env = make()
    seen = env.reset(3)
    assert list(seen.images) == ["front", "wrist"] and env.objects == ("cube", "brick")
    assert {"brick.yaw", "cube.x"} <= set(env.privileged()["observation.environment_state"])
    apart = np.linalg.norm(env.object_pose("cube")[:2] - env.object_pose("brick")[:2])
    assert apart >= 0.06 - 1e-3
    with pytest.raises(ValueError, match="cube, brick"):
        env.place_object("ball", np.zeros(3))
    # What rides on the arm sees the table move when the arm does.
    still = env.observe().images
    env.apply(np.array([0.0, 0.03, 0.0, 0.0]))
    moved = env.observe().images
    changed = {n: np.abs(still[n].astype(int) - moved[n]).mean() for n in still}
    assert changed["wrist"] > changed["front"]
    env.close()
    for words in ({"objects": (blocks[0], blocks[0])}, {"cameras": (cameras[0],) * 2}):
        with pytest.raises(ValueError, match="names of their own"):
            Tabletop(so100(), **words)
    with pytest.raises(ValueError, match="want at least 1"):
        Tabletop(so100(), cameras=())


def test_what_has_no_room_is_told():
    many = tuple(Block(f"b{i}") for i in range(40))
    with pytest.raises(ValueError, match="no room"):
        Tabletop(so100(), objects=many, image_size=32)
    arm = replace(so100(), workspace_low=so100().workspace_high - 0.03)
    with pytest.raises(ValueError, match="in the workspace of so100"):
        ReachTask(Tabletop(arm, image_size=32)).episode(0)
    above = Camera("top", (0.22, 0.0, 0.6), (0.22, 0.0, 0.0))
    Tabletop(so100(), cameras=(above,), image_size=32).close()
    with pytest.raises(ValueError, match="straight down"):
        Tabletop(so100(), cameras=(above,), image_size=32, random_appearance=True)


def test_large_objects_lie_beside_each_other():
    blocks = tuple(Block(name, half_size=(0.04, 0.04, 0.02)) for name in ("a", "b"))
    env = Tabletop(so100(), objects=blocks, image_size=32)
    for seed in range(12):
        env.reset(seed)
        apart = np.linalg.norm(env.object_pose("a")[:2] - env.object_pose("b")[:2])
        assert apart >= 2 * 0.04 * 2**0.5 - 1e-3
    env.close()


def test_clutter_stands_around_the_place_of_work(arm):
    env = Tabletop(arm, image_size=32, random_appearance=True)
    model = env.physics.model
    for seed in range(60):
        env.randomize_appearance(seed)
        for i in range(6):
            geom = model.geom(f"clutter{i}")
            inside = (arm.workspace_low[:2] < geom.pos[:2]) & (
                geom.pos[:2] < arm.workspace_high[:2]
            )
            assert geom.rgba[3] == 0 or not inside.all()
    env.close()


ONE_JOINT = """<mujoco model="other"><compiler angle="{angle}"/><worldbody><body>
<joint name="a" axis="0 0 1" range="-1 1"/><geom size=".1"/><site name="ee"/>{more}
</body></worldbody></mujoco>"""


@pytest.mark.parametrize(
    ("angle", "more", "why"),
    [
        ("degree", "", "angles in degree"),
        ("radian", '<body pos=".1 0 0"><joint name="b"/><geom size=".1"/></body>', "joint b"),
    ],
)
def test_what_nobody_would_watch_is_no_arm(angle, more, why):
    with pytest.raises(ValueError, match=why):
        load_chain(ONE_JOINT.format(angle=angle, more=more), joints=("a",), tool="ee")


def test_arms_come_by_name_or_by_the_function_of_a_caller():
    assert find_arm("jaco").name == "jaco"
    assert find_arm("robot_wm.robots.so100.so100").name == "so100"
    for name, why in (
        ("so101x", "want one of jaco, so100"),
        ("nowhere.arm", "nowhere"),
        ("robot_wm.types.Verdict", "want a RobotModel"),
    ):
        with pytest.raises(ValueError, match=why):
            find_arm(name)
    with pytest.raises(ValueError, match="is taken"):
        register_arm("so100", jaco)


def test_an_arm_is_built_from_its_settings():
    words = ["robot=lerobot", "checkpoint=x", "goal=y", "robot.limits.max_speed=0.5"]
    robot = build_robot(load_command("deploy", words).robot)
    assert robot.limits.tip_speed == 0.10 and (robot.limits.max_speed == 0.5).all()
    assert robot.park is None and robot.device is not None
    assert so100().limits.tip_speed == 0.25
    sim = build_robot(load_command("deploy", ["checkpoint=x", "goal=y"]).robot)
    np.testing.assert_array_equal(sim.park, sim.home)
    words = ["checkpoint=x", "goal=y", "robot.park_pose=[0,-1.9,1.7,1.2,0,0.3]"]
    assert build_robot(load_command("deploy", words).robot).park[1] == -1.9
    for rest in ("[0,1]", "somewhere", "[0,-9,1.7,1.2,0,0.3]"):
        words = ["checkpoint=x", "goal=y", f"robot.park_pose={rest}"]
        with pytest.raises(ValueError, match="park|rest"):
            build_robot(load_command("deploy", words).robot)


def test_another_arm_is_driven_by_deploy(tmp_path, capsys):
    """From demonstrations of Kinova's arm to its simulated device, behind its governor."""
    small = ["experiment=debug", "env=jaco_reach", "env.simulator.image_size=64", "env.num_steps=8"]
    data, checkpoint, goal = (str(tmp_path / name) for name in ("data", "ckpt", "goal.png"))
    assert main(["collect", *small, f"out={data}"]) == 0
    words = ["experiment=debug", f"data={data}", f"cache={tmp_path / 'cache'}"]
    assert main(["train", *words, f"out={checkpoint}"]) == 0
    env = Tabletop(jaco(), image_size=64)
    Image.fromarray(env.reset(5).images["front"]).save(goal)
    env.close()
    words = [f"checkpoint={checkpoint}", f"goal={goal}", "robot.image_size=64", "confirm=false"]
    words += ["mode=run", "num_steps=2", "monitors.allow_novel=true", f"out={tmp_path / 'run'}"]
    capsys.readouterr()
    assert main(["deploy", *words]) == 2
    assert "trained on a jaco, this is a so100" in capsys.readouterr().err
    assert main(["deploy", *words, "robot.arm=jaco"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["ended"].startswith("done") and not told["fault"]
    assert main(["replay", told["record"]]) == 0


def test_the_scene_is_the_same_whatever_the_limits():
    """A policy for one task is shown the same picture in another, whose workspace is larger."""
    arm = so100()
    wider = arm.with_limits(workspace_high=(0.33, 0.16, 0.19, 0.08))
    assert stand_of(wider) == stand_of(arm)
    one, other = (Tabletop(each, image_size=32) for each in (arm, wider))
    place = np.array([0.2, 0.05, 0.1, 0.02])
    for env in (one, other):
        env.place(place, {"cube": np.array([0.25, -0.05, 0.3])})
    assert np.array_equal(one.observe().images["front"], other.observe().images["front"])
    with pytest.raises(UserError, match="reach_m"):
        replace(arm, reach_m=0.0)
