"""Any LeRobot robot as an arm: the one module of this package that imports lerobot.

What its drivers leave open is closed here: reads that fail for one lost packet are tried again,
servo errors that neither reads nor writes report are asked for, torque comes on with the goal where
the arm stands, one process drives a port, and leaving never raises and never drops torque.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import importlib
import importlib.util
import os
import pkgutil
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from hardware.arm import ArmError, ArmLimits, check_command
from hardware.reasons import Kind, Reason
from hardware.ticks import Reading
from hardware.wire import FrameSlot
from robot_wm.kinematics.joints import JointMap
from robot_wm.types import FloatArray, UserError

_TRIES = 3  # of a bus that loses 2 % of its packets, one in 125,000 goes on to fail
# LookupError: a driver that takes a late reply to an earlier question for the answer to this one
_BUS_ERRORS = (OSError, RuntimeError, LookupError, termios.error)
_UNIT_ERROR = 0.1  # of how far a joint goes
_ERROR_BITS = ("voltage", "angle", "temperature", "current", "?", "overload")
_T = TypeVar("_T")


class LeRobotArm:
    """A connected LeRobot robot (hardware.arm.Arm).

    Args:
        robot: connected, without cameras.
        joints: how its joints become the model's.
        low, high: of the model's joints `[J]`, rad.
        frames: camera -> where its newest picture is shown.
        lock: of its port, let go of with it.
    """

    def __init__(
        self,
        robot: Any,
        joints: JointMap,
        *,
        low: FloatArray,
        high: FloatArray,
        frames: Mapping[str, FrameSlot] | None = None,
        lock: DeviceLock | None = None,
    ) -> None:
        self._robot, self._joints, self._lock = robot, joints, lock
        self._limits = ArmLimits(joints.names, np.array(low), np.array(high))
        self._frames = dict(frames or {})
        self._ask = 0
        self._complaints: dict[str, Reason | None] = {}  # of each servo, when it was last asked
        self.num_retries = 0

    @property
    def frames(self) -> Mapping[str, FrameSlot]:
        return self._frames

    def limits(self) -> ArmLimits:
        return self._limits

    def read(self) -> Reading:
        stamp_s = time.monotonic()
        values = self._observe()
        try:
            angles = self._joints.angles(values)
        except (ValueError, TypeError) as error:
            raise ArmError(str(error)) from error
        stamps = {name: slot.stamp_s() for name, slot in self._frames.items()}
        return Reading(angles, stamp_s, stamps, self._servo_error())

    def _observe(self) -> Mapping[str, Any]:
        """All at once; where one reply of many is lost, one by one, so that one is asked again."""
        bus = getattr(self._robot, "bus", None)
        if bus is None:
            return self._try(self._robot.get_observation)
        try:
            return self._robot.get_observation()
        except _BUS_ERRORS:
            _free(bus)
            self.num_retries += 1
        names = [key.removesuffix(".pos") for key in self._joints.keys]
        return {
            f"{name}.pos": self._try(functools.partial(bus.read, "Present_Position", name))
            for name in names
        }

    def write(self, joints: FloatArray) -> None:
        check_command(joints, len(self._joints.keys))
        values = self._joints.values(joints)
        self._try(lambda: self._robot.send_action(dict(values)))

    def hold(self) -> None:
        """Every motor's goal becomes where it is; all are tried, whatever some of them say."""
        try:
            values = self._try(self._robot.get_observation)
            self._robot.send_action({key: values[key] for key in self._joints.keys})
            return
        except Exception:  # noqa: BLE001 - the stop path: go on, motor by motor
            bus = getattr(self._robot, "bus", None)
        for motor in getattr(bus, "motors", {}):
            try:
                bus.write("Goal_Position", motor, bus.read("Present_Position", motor))  # type: ignore[union-attr]
            except Exception:  # noqa: BLE001 - the stop path: the next motor
                continue

    def close(self, *, relax: bool = False) -> None:
        """Leaves the robot holding its last goal, its torque on, unless it may relax. Never raises.

        A driver whose config does not say whether to drop torque does as it does.
        """
        config = getattr(self._robot, "config", None)
        if hasattr(config, "disable_torque_on_disconnect"):
            config.disable_torque_on_disconnect = relax  # type: ignore[union-attr]
        try:
            self._robot.disconnect()
        except Exception:  # noqa: BLE001 - the stop path: it is left as it is
            pass
        if self._lock is not None:
            self._lock.close()

    def _try(self, act: Callable[[], _T]) -> _T:
        for left in reversed(range(_TRIES)):
            try:
                return act()
            except _BUS_ERRORS as error:
                _free(getattr(self._robot, "bus", None))
                if not left:
                    raise ArmError(" ".join(str(error).split())[:200]) from error
                self.num_retries += 1
        raise AssertionError

    def _servo_error(self) -> Reason | None:
        """What is wrong with a motor, of which one in turn is asked: no read and no write tells."""
        bus = getattr(self._robot, "bus", None)
        handler, port = getattr(bus, "packet_handler", None), getattr(bus, "port_handler", None)
        if bus is None or handler is None or port is None or not hasattr(handler, "ping"):
            return None
        name = list(bus.motors)[self._ask % len(bus.motors)]
        self._ask += 1
        _, comm, error = self._try(lambda: handler.ping(port, bus.motors[name].id))
        if comm == 0:  # else a lost packet: the next turn will tell
            bits = [word for i, word in enumerate(_ERROR_BITS) if error >> i & 1]
            numbers = {"servo": name, "errors": ", ".join(bits) or hex(error)}
            self._complaints[name] = Reason(Kind.SERVO, numbers) if error else None
        return next(filter(None, self._complaints.values()), None)


def connect(
    kind: str,
    settings: Mapping[str, Any],
    joints: JointMap,
    *,
    low: FloatArray,
    high: FloatArray,
    frames: Mapping[str, FrameSlot],
    reply_s: float = 0.02,
    dry_run: bool = False,
) -> LeRobotArm:
    """A LeRobot robot as an arm that nobody else drives.

    Args:
        kind, settings: as `open_robot` takes them.
        joints: how its joints become the model's.
        low, high: of the model's joints `[J]`, rad; where its calibration has it end sooner, that
            counts.
        frames: camera -> where its newest picture is shown.
        reply_s: after so long a servo's reply counts as lost; LeRobot's own 50 ms and more are half
            the age that a reading may have.
        dry_run: writes nothing: its torque stays as it is.

    Raises:
        UserError: as `open_robot`, a joint that it does not have, or units that are not its own.
        ArmError: it does not answer, or another process drives it.
    """
    port = settings.get("port")
    with contextlib.ExitStack() as stack:  # let go of where it cannot be driven
        lock = None
        if port is not None:
            lock = DeviceLock(str(port))
            stack.callback(lock.close)
        robot = open_robot(kind, settings, reply_s=reply_s)
        stack.callback(robot.bus.disconnect, False)
        missing = [key for key in joints.keys if key not in robot.action_features]
        if missing:
            have = ", ".join(robot.action_features)
            raise UserError(f"robot.joints.keys: {kind} has no {', '.join(missing)}, but {have}")
        ends = np.array([joints.angles(values) for values in _ends(robot, joints)])
        _check_units(robot.bus, joints, np.ptp(ends, axis=0))
        if not dry_run:
            _take_hold(robot)
        stack.pop_all()
    low, high = np.maximum(low, ends.min(0)), np.minimum(high, ends.max(0))
    return LeRobotArm(robot, joints, low=low, high=high, frames=frames, lock=lock)


def _check_units(bus: Any, joints: JointMap, spans: FloatArray) -> None:
    """Raises UserError where calibrated ticks and the map do not agree on how far a joint goes."""
    for key, unit, span in zip(joints.keys, joints.rad_per_unit, spans, strict=True):
        name = key.removesuffix(".pos")
        calibration = (getattr(bus, "calibration", None) or {}).get(name)
        if calibration is None:
            continue
        ticks = bus.model_resolution_table[bus.motors[name].model]
        turn = abs(calibration.range_max - calibration.range_min) * 2 * np.pi / ticks
        if not abs(span - turn) <= _UNIT_ERROR * turn:
            raise UserError(
                f"robot.joints.rad_per_unit: {key} goes {span:.2f} rad by it, {turn:.2f} by its "
                f"calibration; want {unit * turn / span:.5g}, or other units of the robot"
            )


def _ends(robot: Any, joints: JointMap) -> list[dict[str, float]]:
    """Both ends of the calibrated range of every joint, in the device's values; where it has none,
    as far as floats go.
    """
    found = []
    bus: Any = getattr(robot, "bus", None)
    far = np.where(joints.rad_per_unit > 0, 1e9, -1e9)
    for side, sign in (("range_min", -1.0), ("range_max", 1.0)):
        values = dict(zip(joints.keys, sign * far, strict=True))
        for name, motor in getattr(bus, "motors", {}).items():
            key, range_ = f"{name}.pos", (getattr(bus, "calibration", None) or {}).get(name)
            if key in values and range_ is not None:
                # There is no public way from ticks to the values that the robot speaks in.
                (values[key],) = bus._normalize({motor.id: getattr(range_, side)}).values()
        found.append({key: float(value) for key, value in values.items()})
    return found


def check_installed() -> None:
    """Raises UserError where LeRobot, which robot_wm otherwise does without, is not installed."""
    if importlib.util.find_spec("lerobot") is None:
        raise UserError(
            "robot: LeRobot is not installed, which drives real arms and their cameras; "
            "run pip install 'robot-wm[lerobot]'"
        )


def open_robot(kind: str, settings: Mapping[str, Any], *, reply_s: float = 0.02) -> Any:
    """A LeRobot robot by its type and config, connected and calibrated; its torque is as it was.

    Raises:
        UserError: LeRobot is not installed, no such type, a setting that it does not take, or a
            robot without calibration.
        ArmError: it does not answer.
    """
    if not 0 < reply_s < 1:
        raise UserError(f"robot.reply_s: got {reply_s}, want more than 0 and less than 1 s")
    for name in ("cameras", "max_relative_target"):
        if settings.get(name):
            raise UserError(
                f"robot.config.{name}: not taken: robot.cameras are opened apart from the arm, and "
                f"what reaches it is what its governor returned"
            )
    check_installed()
    from lerobot import robots

    for module in pkgutil.iter_modules(robots.__path__):
        if module.ispkg:
            with contextlib.suppress(ImportError):  # wants a driver that is not installed
                importlib.import_module(f"lerobot.robots.{module.name}")
    port = settings.get("port")
    if port is not None and not os.path.exists(str(port)):
        raise UserError(f"robot.port: no device {port}")
    config = decode_config(robots.RobotConfig, kind, settings, "robot")
    if hasattr(config, "disable_torque_on_disconnect"):
        config.disable_torque_on_disconnect = False  # its destructor disconnects, whatever happens
    robot = robots.make_robot_from_config(config)
    bus = getattr(robot, "bus", None)
    if bus is None or not hasattr(bus, "sync_write"):
        raise UserError(f"robot.type: {kind} has no motor bus of its own, and is not driven")
    _hurry(robot, reply_s)
    try:
        with _patient(bus):
            _connect(bus)
            calibrated = robot.is_calibrated
    except _BUS_ERRORS as error:
        _free(bus)
        with contextlib.suppress(Exception):
            bus.disconnect(False)
        raise ArmError(f"{kind}: {' '.join(str(error).split())[:200]}") from error
    if not calibrated:
        bus.disconnect(False)
        raise UserError(
            f"{kind}: not calibrated, or its motors hold another calibration than the file of id "
            f"{getattr(config, 'id', None)!r}; run lerobot-calibrate first"
        )
    return robot


def _connect(bus: Any) -> None:
    """Opens a bus; its handshake has dozens of packets, and one that is lost spoils it."""
    for left in reversed(range(2 * _TRIES)):
        try:
            bus.connect()
            break
        except _BUS_ERRORS:
            _free(bus)
            with contextlib.suppress(Exception):
                bus.port_handler.closePort()
            if not left:
                raise
    serial = getattr(bus.port_handler, "ser", None)
    if serial is not None:  # LeRobot's own tools do not ask whether somebody has it open
        fcntl.ioctl(serial.fileno(), termios.TIOCEXCL)


def _take_hold(robot: Any) -> None:
    """Turns torque on with every goal where its motor stands; an arm that holds is never let go.

    LeRobot's `configure` turns torque off and on again: what a limp arm does not mind makes one
    that holds fall and spring back.
    """
    bus = robot.bus
    try:
        with _patient(bus):
            holds = any(bus.sync_read("Torque_Enable", normalize=False).values())
            if holds:
                bus.torque_disabled = contextlib.nullcontext
            try:
                _goal_where_it_stands(bus)
                robot.configure()
            finally:
                if holds:
                    del bus.torque_disabled
            _goal_where_it_stands(bus)
            bus.enable_torque(num_retry=_TRIES)
    except _BUS_ERRORS as error:
        _free(bus)
        raise ArmError(f"its torque: {' '.join(str(error).split())[:200]}") from error


def _goal_where_it_stands(bus: Any) -> None:
    """A servo's old goal may be far away."""
    present = bus.sync_read("Present_Position", normalize=False)
    bus.sync_write("Goal_Position", present, normalize=False, num_retry=_TRIES)


def _free(bus: Any) -> None:
    """A driver that was interrupted in a packet takes its port for busy for ever."""
    port = getattr(bus, "port_handler", None)
    if hasattr(port, "is_using"):
        port.is_using = False  # type: ignore[union-attr]


def decode_config(registry: Any, kind: str | None, settings: Mapping[str, Any], what: str) -> Any:
    """A LeRobot config of a registry of them, such as RobotConfig, by its type.

    Raises:
        UserError: no such type, or a setting that it does not take.
    """
    import draccus
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    known = registry.get_known_choices()
    if kind not in known:
        raise UserError(f"{what}.type: got {kind!r}, want one of {', '.join(sorted(known))}")
    try:
        return draccus.decode(known[kind], dict(settings))  # pyright: ignore[reportPrivateImportUsage]
    except (draccus.utils.DraccusException, ValueError, TypeError) as error:
        raise UserError(f"{what}: {error}") from error


@contextlib.contextmanager
def _patient(bus: Any) -> Iterator[None]:
    """Has a bus ask again where a packet is lost: one of the dozens of connecting spoils it all."""
    asked = ("ping", "read", "_read", "write", "sync_read")
    names = [name for name in asked if hasattr(bus, name)]
    for name in names:
        setattr(bus, name, _again(getattr(bus, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(bus, name)  # the method of its class again


def _again(ask: Callable[..., _T]) -> Callable[..., _T]:
    def again(*words: Any, num_retry: int = 0, **own: Any) -> _T:
        for left in reversed(range(_TRIES)):
            try:
                return ask(*words, num_retry=max(num_retry, _TRIES), **own)
            except LookupError:
                if not left:
                    raise
        raise AssertionError

    return again


def _hurry(robot: Any, reply_s: float) -> None:
    """Has a serial bus give a reply up for lost sooner, and not take it for the next one's."""
    port = getattr(getattr(robot, "bus", None), "port_handler", None)
    begin = getattr(port, "setPacketTimeout", None)
    if port is None or begin is None:
        return

    def soon(num_bytes: int) -> None:
        begin(num_bytes)
        port.packet_timeout = min(port.packet_timeout, 1000.0 * reply_s)

    port.setPacketTimeout = soon
    clear = port.clearPort

    def clear_both() -> None:  # the driver's own waits for what is sent; what came late stays
        clear()
        port.ser.reset_input_buffer()

    if hasattr(port, "ser"):
        port.clearPort = clear_both


class DeviceLock:
    """Keeps a second controller off a port: held until it is closed, or its process dies.

    Args:
        port: a path, such as /dev/ttyACM0.

    Raises:
        UserError: no such device.
        ArmError: another process drives it.
    """

    def __init__(self, port: str) -> None:
        try:
            self._descriptor = os.open(port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise ArmError(f"{port}: another process drives it") from None
            hint = "; is your user in the group dialout?" if error.errno == errno.EACCES else ""
            raise UserError(f"robot.port: {error}{hint}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ArmError(f"{port}: another process drives it") from None

    def close(self) -> None:
        """Lets others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
