"""Any LeRobot robot as an arm: the one module of this package that imports lerobot.

It adds what LeRobot's drivers lack. Reads that fail for one lost packet are repeated; servo errors,
which neither reads nor writes report, are asked for; torque comes on with every joint target where
the arm stands; only one process drives a port; and closing never raises and never drops torque
unasked.
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

_TRIES = 3  # on a bus that loses 2 % of its packets, one request in 125,000 still fails
# LookupError: the driver took a late reply to an earlier request for the reply to this one.
_BUS_ERRORS = (OSError, RuntimeError, LookupError, termios.error)
_UNIT_ERROR = 0.1  # largest relative difference of a joint's range by joint map and calibration
_ERROR_BITS = ("voltage", "angle", "temperature", "current", "?", "overload")
_T = TypeVar("_T")


class LeRobotArm:
    """A connected LeRobot robot (`hardware.arm.Arm`).

    Args:
        robot: connected, without cameras.
        joints: maps its joints to the model's.
        low: lower limits of the model's joints `[J]`, rad.
        high: upper limits of the model's joints `[J]`, rad.
        frames: shared memory of each camera's newest picture, by camera.
        lock: of its port; released when the arm is closed.
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
        self._num_pings = 0
        self._servo_errors: dict[str, Reason | None] = {}  # by servo, as of its last ping
        self.num_retries = 0

    @property
    def frames(self) -> Mapping[str, FrameSlot]:
        """See `Arm.frames`."""
        return self._frames

    def limits(self) -> ArmLimits:
        """See `Arm.limits`."""
        return self._limits

    def read(self) -> Reading:
        """See `Arm.read`."""
        stamp_s = time.monotonic()
        values = self._observe()
        try:
            angles = self._joints.angles(values)
        except (ValueError, TypeError) as error:
            raise ArmError(str(error)) from error
        stamps = {name: slot.stamp_s() for name, slot in self._frames.items()}
        return Reading(angles, stamp_s, stamps, self._servo_error())

    def _observe(self) -> Mapping[str, Any]:
        """Reads all joints at once; if one of the many replies is lost, reads them one by one."""
        bus = getattr(self._robot, "bus", None)
        if bus is None:
            return self._try(self._robot.get_observation)
        try:
            return self._robot.get_observation()
        except _BUS_ERRORS:
            _release_port(bus)
            self.num_retries += 1
        names = [key.removesuffix(".pos") for key in self._joints.keys]
        return {
            f"{name}.pos": self._try(functools.partial(bus.read, "Present_Position", name))
            for name in names
        }

    def write(self, joints: FloatArray) -> None:
        """See `Arm.write`."""
        check_command(joints, len(self._joints.keys))
        values = self._joints.values(joints)
        self._try(lambda: self._robot.send_action(dict(values)))

    def hold(self) -> None:
        """Sets each motor's goal to where the motor is; one that fails does not keep the others."""
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
        """Leaves the robot holding its last joint target, torque on, unless `relax`; never raises.

        A driver whose config has no switch for torque at disconnect does as it always does.

        Args:
            relax: turn torque off.
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

    def _try(self, request: Callable[[], _T]) -> _T:
        for num_left in reversed(range(_TRIES)):
            try:
                return request()
            except _BUS_ERRORS as error:
                _release_port(getattr(self._robot, "bus", None))
                if not num_left:
                    raise ArmError(" ".join(str(error).split())[:200]) from error
                self.num_retries += 1
        raise AssertionError

    def _servo_error(self) -> Reason | None:
        """Pings one motor per call, round robin, and returns the error of a motor, if any has one.

        Reads and writes do not report servo errors.

        Returns:
            The first error among the motors' last answers; None: no motor reports one.
        """
        bus = getattr(self._robot, "bus", None)
        handler, port = getattr(bus, "packet_handler", None), getattr(bus, "port_handler", None)
        if bus is None or handler is None or port is None or not hasattr(handler, "ping"):
            return None
        name = list(bus.motors)[self._num_pings % len(bus.motors)]
        self._num_pings += 1
        _, comm, error = self._try(lambda: handler.ping(port, bus.motors[name].id))
        if comm == 0:  # else the packet was lost: it is asked again after the others
            bits = [word for i, word in enumerate(_ERROR_BITS) if error >> i & 1]
            numbers = {"servo": name, "errors": ", ".join(bits) or hex(error)}
            self._servo_errors[name] = Reason(Kind.SERVO, numbers) if error else None
        return next(filter(None, self._servo_errors.values()), None)


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
    """Opens a LeRobot robot as an arm that no other process drives.

    Args:
        kind: LeRobot's name of the robot type.
        settings: its config, as LeRobot decodes it.
        joints: maps its joints to the model's.
        low: lower limits of the model's joints `[J]`, rad; a narrower calibrated range counts.
        high: upper limits of the model's joints `[J]`, rad; a narrower calibrated range counts.
        frames: shared memory of each camera's newest picture, by camera.
        reply_s: after so long a servo's reply counts as lost; LeRobot's own 50 ms and more are half
            the age that a reading may have.
        dry_run: write nothing: torque stays as it is.

    Returns:
        The arm, holding where it stands unless `dry_run`.

    Raises:
        UserError: as `open_robot`; or a joint that it does not have, or wrong units.
        ArmError: it does not answer, or another process drives it.
    """
    port = settings.get("port")
    with contextlib.ExitStack() as stack:  # closes port and lock where the arm cannot be driven
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
        ends = np.array([joints.angles(values) for values in _calibrated_ends(robot, joints)])
        _check_units(robot.bus, joints, np.ptp(ends, axis=0))
        if not dry_run:
            _enable_torque(robot)
        stack.pop_all()
    low, high = np.maximum(low, ends.min(0)), np.minimum(high, ends.max(0))
    return LeRobotArm(robot, joints, low=low, high=high, frames=frames, lock=lock)


def _check_units(bus: Any, joints: JointMap, spans: FloatArray) -> None:
    """Raises UserError where calibration and joint map disagree on how far a joint moves."""
    for key, unit, span in zip(joints.keys, joints.rad_per_unit, spans, strict=True):
        name = key.removesuffix(".pos")
        calibration = (getattr(bus, "calibration", None) or {}).get(name)
        if calibration is None:
            continue
        ticks = bus.model_resolution_table[bus.motors[name].model]
        range_rad = abs(calibration.range_max - calibration.range_min) * 2 * np.pi / ticks
        if not abs(span - range_rad) <= _UNIT_ERROR * range_rad:
            raise UserError(
                f"robot.joints.rad_per_unit: {key} goes {span:.2f} rad by it, {range_rad:.2f} by "
                f"its calibration; want {unit * range_rad / span:.5g}, or other units of the robot"
            )


def _calibrated_ends(robot: Any, joints: JointMap) -> list[dict[str, float]]:
    """Returns both ends of every joint's calibrated range, in the device's values.

    A joint without calibration gets -1e9 and 1e9, so that its limits are the model's.

    Args:
        robot: connected.
        joints: maps its joints to the model's.

    Returns:
        The lower ends in rad, then the upper ones, by key.
    """
    ends = []
    bus: Any = getattr(robot, "bus", None)
    far = np.where(joints.rad_per_unit > 0, 1e9, -1e9)
    for side, sign in (("range_min", -1.0), ("range_max", 1.0)):
        values = dict(zip(joints.keys, sign * far, strict=True))
        for name, motor in getattr(bus, "motors", {}).items():
            key, range_ = f"{name}.pos", (getattr(bus, "calibration", None) or {}).get(name)
            if key in values and range_ is not None:
                # LeRobot has no public function from ticks to the robot's values.
                (values[key],) = bus._normalize({motor.id: getattr(range_, side)}).values()
        ends.append({key: float(value) for key, value in values.items()})
    return ends


def check_installed() -> None:
    """Raises UserError where LeRobot is not installed, which robot_wm otherwise does without."""
    if importlib.util.find_spec("lerobot") is None:
        raise UserError(
            "robot: LeRobot is not installed, which drives real arms and their cameras; "
            "run pip install 'robot-wm[lerobot]'"
        )


def open_robot(kind: str, settings: Mapping[str, Any], *, reply_s: float = 0.02) -> Any:
    """Opens a LeRobot robot and checks its calibration; leaves its torque as it is.

    Args:
        kind: LeRobot's name of the robot type.
        settings: its config, as LeRobot decodes it.
        reply_s: after so long a servo's reply counts as lost.

    Returns:
        The connected robot.

    Raises:
        UserError: LeRobot is not installed, there is no such type, a setting is wrong, or the robot
            is not calibrated.
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
            with contextlib.suppress(ImportError):  # needs a driver that is not installed
                importlib.import_module(f"lerobot.robots.{module.name}")
    port = settings.get("port")
    if port is not None and not os.path.exists(str(port)):
        raise UserError(f"robot.port: no device {port}")
    config = decode_config(robots.RobotConfig, kind, settings, "robot")
    if hasattr(config, "disable_torque_on_disconnect"):
        config.disable_torque_on_disconnect = False  # its destructor disconnects, too
    robot = robots.make_robot_from_config(config)
    bus = getattr(robot, "bus", None)
    if bus is None or not hasattr(bus, "sync_write"):
        raise UserError(f"robot.type: {kind} has no motor bus of its own, and is not driven")
    _shorten_timeout(robot, reply_s)
    try:
        with _with_retries(bus):
            _connect(bus)
            calibrated = robot.is_calibrated
    except _BUS_ERRORS as error:
        _release_port(bus)
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
    """Opens a bus, repeatedly: its handshake has dozens of packets, and one lost one fails it."""
    for num_left in reversed(range(2 * _TRIES)):
        try:
            bus.connect()
            break
        except _BUS_ERRORS:
            _release_port(bus)
            with contextlib.suppress(Exception):
                bus.port_handler.closePort()
            if not num_left:
                raise
    serial = getattr(bus.port_handler, "ser", None)
    if serial is not None:  # LeRobot's own tools do not check whether the port is open elsewhere
        fcntl.ioctl(serial.fileno(), termios.TIOCEXCL)


def _enable_torque(robot: Any) -> None:
    """Turns torque on with every goal where its motor stands; an arm that holds never lets go.

    LeRobot's `configure` turns torque off and on again: harmless for a limp arm, but one that holds
    would fall and spring back.

    Args:
        robot: connected.

    Raises:
        ArmError: it does not answer.
    """
    bus = robot.bus
    try:
        with _with_retries(bus):
            holds = any(bus.sync_read("Torque_Enable", normalize=False).values())
            if holds:
                bus.torque_disabled = contextlib.nullcontext
            try:
                _set_goals_to_present(bus)
                robot.configure()
            finally:
                if holds:
                    del bus.torque_disabled
            _set_goals_to_present(bus)
            bus.enable_torque(num_retry=_TRIES)
    except _BUS_ERRORS as error:
        _release_port(bus)
        raise ArmError(f"its torque: {' '.join(str(error).split())[:200]}") from error


def _set_goals_to_present(bus: Any) -> None:
    """Sets each servo's goal to its present position; an old goal may be far away."""
    present = bus.sync_read("Present_Position", normalize=False)
    bus.sync_write("Goal_Position", present, normalize=False, num_retry=_TRIES)


def _release_port(bus: Any) -> None:
    """Resets `is_using`, which an interrupted transfer leaves set: the port would stay busy."""
    port = getattr(bus, "port_handler", None)
    if hasattr(port, "is_using"):
        port.is_using = False  # type: ignore[union-attr]


def decode_config(registry: Any, kind: str | None, settings: Mapping[str, Any], what: str) -> Any:
    """Decodes a LeRobot config by its type.

    Args:
        registry: LeRobot's base class of such configs, such as RobotConfig.
        kind: name of the type.
        settings: fields of the config.
        what: path of the settings, for error messages.

    Returns:
        The config.

    Raises:
        UserError: there is no such type, or a setting is wrong.
    """
    import draccus
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    choices = registry.get_known_choices()
    if kind not in choices:
        raise UserError(f"{what}.type: got {kind!r}, want one of {', '.join(sorted(choices))}")
    try:
        return draccus.decode(choices[kind], dict(settings))  # pyright: ignore[reportPrivateImportUsage]
    except (draccus.utils.DraccusException, ValueError, TypeError) as error:
        raise UserError(f"{what}: {error}") from error


@contextlib.contextmanager
def _with_retries(bus: Any) -> Iterator[None]:
    """Makes a bus repeat lost packets inside the context; connecting takes dozens of packets."""
    methods = ("ping", "read", "_read", "write", "sync_read")
    names = [name for name in methods if hasattr(bus, name)]
    for name in names:
        setattr(bus, name, _retrying(getattr(bus, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(bus, name)  # the method of its class again


def _retrying(request: Callable[..., _T]) -> Callable[..., _T]:
    def retrying(*args: Any, num_retry: int = 0, **kwargs: Any) -> _T:
        for num_left in reversed(range(_TRIES)):
            try:
                return request(*args, num_retry=max(num_retry, _TRIES), **kwargs)
            except LookupError:
                if not num_left:
                    raise
        raise AssertionError

    return retrying


def _shorten_timeout(robot: Any, reply_s: float) -> None:
    """Makes a serial bus give up a reply after `reply_s`, and drop what comes later than that."""
    port = getattr(getattr(robot, "bus", None), "port_handler", None)
    set_timeout = getattr(port, "setPacketTimeout", None)
    if port is None or set_timeout is None:
        return

    def set_short_timeout(num_bytes: int) -> None:
        set_timeout(num_bytes)
        port.packet_timeout = min(port.packet_timeout, 1000.0 * reply_s)

    port.setPacketTimeout = set_short_timeout
    clear = port.clearPort

    def clear_both() -> None:  # the driver's own flushes output only: late replies would stay
        clear()
        port.ser.reset_input_buffer()

    if hasattr(port, "ser"):
        port.clearPort = clear_both


class DeviceLock:
    """Exclusive use of a port, until the lock is closed or its process dies.

    Args:
        port: a path, such as /dev/ttyACM0.

    Raises:
        UserError: there is no such device.
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
        """Releases the port."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
