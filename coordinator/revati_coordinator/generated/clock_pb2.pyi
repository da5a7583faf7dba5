from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClockRequest(_message.Message):
    __slots__ = ("id", "register", "now", "wait_until", "resume", "hold", "release", "deregister")
    ID_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    WAIT_UNTIL_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    DEREGISTER_FIELD_NUMBER: _ClassVar[int]
    id: int
    register: Register
    now: Now
    wait_until: WaitUntil
    resume: Resume
    hold: Hold
    release: Release
    deregister: Deregister
    def __init__(self, id: _Optional[int] = ..., register: _Optional[_Union[Register, _Mapping]] = ..., now: _Optional[_Union[Now, _Mapping]] = ..., wait_until: _Optional[_Union[WaitUntil, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., deregister: _Optional[_Union[Deregister, _Mapping]] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("name", "protocol")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    name: str
    protocol: int
    def __init__(self, name: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class Now(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WaitUntil(_message.Message):
    __slots__ = ("t_ns",)
    T_NS_FIELD_NUMBER: _ClassVar[int]
    t_ns: int
    def __init__(self, t_ns: _Optional[int] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Hold(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Release(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Deregister(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClockReply(_message.Message):
    __slots__ = ("id", "now_ns", "error", "protocol", "resumed")
    ID_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    id: int
    now_ns: int
    error: str
    protocol: int
    resumed: bool
    def __init__(self, id: _Optional[int] = ..., now_ns: _Optional[int] = ..., error: _Optional[str] = ..., protocol: _Optional[int] = ..., resumed: bool = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ThreadsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("jumps",)
    JUMPS_FIELD_NUMBER: _ClassVar[int]
    jumps: int
    def __init__(self, jumps: _Optional[int] = ...) -> None: ...

class RunToRequest(_message.Message):
    __slots__ = ("t_ns",)
    T_NS_FIELD_NUMBER: _ClassVar[int]
    t_ns: int
    def __init__(self, t_ns: _Optional[int] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("why",)
    WHY_FIELD_NUMBER: _ClassVar[int]
    why: str
    def __init__(self, why: _Optional[str] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("protocol", "pid", "virtual_ns", "real_ns", "jumps", "processes", "threads", "running", "spinning", "actors", "holds", "paused", "policy", "gpu", "command", "now_ns", "gpus", "predictor")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_NS_FIELD_NUMBER: _ClassVar[int]
    REAL_NS_FIELD_NUMBER: _ClassVar[int]
    JUMPS_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SPINNING_FIELD_NUMBER: _ClassVar[int]
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    pid: int
    virtual_ns: int
    real_ns: int
    jumps: int
    processes: int
    threads: int
    running: int
    spinning: int
    actors: int
    holds: int
    paused: bool
    policy: str
    gpu: str
    command: str
    now_ns: int
    gpus: _containers.RepeatedCompositeFieldContainer[GpuUse]
    predictor: str
    def __init__(self, protocol: _Optional[int] = ..., pid: _Optional[int] = ..., virtual_ns: _Optional[int] = ..., real_ns: _Optional[int] = ..., jumps: _Optional[int] = ..., processes: _Optional[int] = ..., threads: _Optional[int] = ..., running: _Optional[int] = ..., spinning: _Optional[int] = ..., actors: _Optional[int] = ..., holds: _Optional[int] = ..., paused: bool = ..., policy: _Optional[str] = ..., gpu: _Optional[str] = ..., command: _Optional[str] = ..., now_ns: _Optional[int] = ..., gpus: _Optional[_Iterable[_Union[GpuUse, _Mapping]]] = ..., predictor: _Optional[str] = ...) -> None: ...

class GpuUse(_message.Message):
    __slots__ = ("name", "uuid", "total_bytes", "used_bytes", "peak_bytes", "busy_ns", "bus_id", "power_limit_w", "clients")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUSY_NS_FIELD_NUMBER: _ClassVar[int]
    BUS_ID_FIELD_NUMBER: _ClassVar[int]
    POWER_LIMIT_W_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    uuid: str
    total_bytes: int
    used_bytes: int
    peak_bytes: int
    busy_ns: int
    bus_id: str
    power_limit_w: int
    clients: _containers.RepeatedCompositeFieldContainer[GpuClient]
    def __init__(self, name: _Optional[str] = ..., uuid: _Optional[str] = ..., total_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., peak_bytes: _Optional[int] = ..., busy_ns: _Optional[int] = ..., bus_id: _Optional[str] = ..., power_limit_w: _Optional[int] = ..., clients: _Optional[_Iterable[_Union[GpuClient, _Mapping]]] = ...) -> None: ...

class GpuClient(_message.Message):
    __slots__ = ("pid", "used_bytes", "name")
    PID_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    pid: int
    used_bytes: int
    name: str
    def __init__(self, pid: _Optional[int] = ..., used_bytes: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class ThreadsReply(_message.Message):
    __slots__ = ("threads",)
    THREADS_FIELD_NUMBER: _ClassVar[int]
    threads: _containers.RepeatedCompositeFieldContainer[ThreadState]
    def __init__(self, threads: _Optional[_Iterable[_Union[ThreadState, _Mapping]]] = ...) -> None: ...

class ThreadState(_message.Message):
    __slots__ = ("pid", "tid", "state", "process", "thread", "wait", "deadline_ns", "fired", "waits", "charged_ns")
    PID_FIELD_NUMBER: _ClassVar[int]
    TID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    THREAD_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    FIRED_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    tid: int
    state: str
    process: str
    thread: str
    wait: str
    deadline_ns: int
    fired: int
    waits: int
    charged_ns: int
    def __init__(self, pid: _Optional[int] = ..., tid: _Optional[int] = ..., state: _Optional[str] = ..., process: _Optional[str] = ..., thread: _Optional[str] = ..., wait: _Optional[str] = ..., deadline_ns: _Optional[int] = ..., fired: _Optional[int] = ..., waits: _Optional[int] = ..., charged_ns: _Optional[int] = ...) -> None: ...

class MetricsReply(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
