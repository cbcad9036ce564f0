"""Opens LeRobot's robots and their buses: the one module of this package that imports lerobot.

It adds what LeRobot's drivers lack where a robot is opened: a handshake that one lost packet does
not fail, replies that do not come late, and a port that only one process drives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import importlib.util
import os
import pkgutil
import termios
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from hardware.arm import ArmError
from robot_wm.types import UserError, checked

TRIES = 3  # on a bus that loses 2 % of its packets, one request in 125,000 still fails
# LookupError: the driver took a late reply to an earlier request for the reply to this one.
BUS_ERRORS = (OSError, RuntimeError, LookupError, termios.error)
_T = TypeVar("_T")


def check_installed() -> None:
    """Raises UserError where LeRobot is not installed, which robot_wm otherwise does without."""
    if importlib.util.find_spec("lerobot") is None:
        raise UserError(
            "robot: LeRobot is not installed, which drives real arms and their cameras; "
            "run pip install 'robot-wm[lerobot]'"
        )


@checked
def open_robot(
    kind: str,
    settings: Mapping[str, Any],
    *,
    reply_s: Annotated[float, Meta(gt=0, lt=1)] = 0.02,
) -> Any:
    """Opens a LeRobot robot and checks its calibration; leaves its torque as it is.

    Args:
        kind: LeRobot's name of the robot type.
        settings: The robot's config, as LeRobot decodes it.
        reply_s: Time after which a servo's reply counts as lost, s.

    Returns:
        The connected robot.

    Raises:
        UserError: LeRobot is not installed, there is no such type, a setting is wrong, or the robot
            is not calibrated.
        ArmError: the robot does not answer.
    """
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
    except BUS_ERRORS as error:
        release_port(bus)
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
    for num_left in reversed(range(2 * TRIES)):
        try:
            bus.connect()
            break
        except BUS_ERRORS:
            release_port(bus)
            with contextlib.suppress(Exception):
                bus.port_handler.closePort()
            if not num_left:
                raise
    serial = getattr(bus.port_handler, "ser", None)
    if serial is not None:  # LeRobot's own tools do not check whether the port is open elsewhere
        fcntl.ioctl(serial.fileno(), termios.TIOCEXCL)


def enable_torque(robot: Any) -> None:
    """Turns torque on with every joint target where its motor stands, and never off in between.

    LeRobot's `configure` turns torque off and on again: harmless for a limp arm, but one that holds
    would fall and spring back.

    Args:
        robot: The connected robot.

    Raises:
        ArmError: the robot does not answer.
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
            bus.enable_torque(num_retry=TRIES)
    except BUS_ERRORS as error:
        release_port(bus)
        raise ArmError(f"its torque: {' '.join(str(error).split())[:200]}") from error


def _set_goals_to_present(bus: Any) -> None:
    """Sets each servo's target to its present position, as an old target may be far away."""
    present = bus.sync_read("Present_Position", normalize=False)
    bus.sync_write("Goal_Position", present, normalize=False, num_retry=TRIES)


def release_port(bus: Any) -> None:
    """Resets `is_using`, which an interrupted transfer leaves set: the port would stay busy."""
    port = getattr(bus, "port_handler", None)
    if hasattr(port, "is_using"):
        port.is_using = False  # type: ignore[union-attr]


def decode_config(registry: Any, kind: str | None, settings: Mapping[str, Any], what: str) -> Any:
    """Decodes a LeRobot config by its type.

    Args:
        registry: LeRobot's base class of such configs, such as RobotConfig.
        kind: Name of the type; None: it is missing.
        settings: Fields of the config.
        what: Dotted name of the settings, for error messages.

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
        for num_left in reversed(range(TRIES)):
            try:
                return request(*args, num_retry=max(num_retry, TRIES), **kwargs)
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
    """Reserves a port for this process until the lock is closed or the process dies.

    Args:
        port: Path of the port, such as /dev/ttyACM0.

    Raises:
        UserError: there is no such device.
        ArmError: another process drives the device.
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
