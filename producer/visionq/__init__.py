"""visionq, the producer's side: image questions into the queue, answers out of the store.

client = visionq.Client.from_settings()
answer = client.ocr("cover.jpg", "Title and author?").result(timeout=60)
"""

from visionq.client import (
    AsyncClient,
    AsyncTaskHandle,
    Client,
    TaskHandle,
)
from visionq.contract import (
    Failure,
    ImageRef,
    Lane,
    Options,
    Result,
    State,
    Status,
    Task,
    Usage,
    Verdict,
)
from visionq.errors import (
    BrokerUnavailable,
    ClientClosed,
    InvalidTask,
    NoValue,
    PromptTooLong,
    QueueFull,
    ReentrantCall,
    SchemaUnsupported,
    SettingsError,
    StorageError,
    TaskExpired,
    TaskFailed,
    TaskNotDone,
    TaskRevoked,
    TaskUnknown,
    VisionqError,
    WaitTimeout,
)
from visionq.estimates import Estimate
from visionq.inputs import Page
from visionq.kinds import Kind
from visionq.objects import StoreAddress
from visionq.records import QueueLimits
from visionq.submissions import Submission, SubmitOptions

__all__ = [
    "AsyncClient",
    "AsyncTaskHandle",
    "BrokerUnavailable",
    "Client",
    "ClientClosed",
    "Estimate",
    "Failure",
    "ImageRef",
    "InvalidTask",
    "Kind",
    "Lane",
    "NoValue",
    "Options",
    "Page",
    "PromptTooLong",
    "QueueFull",
    "QueueLimits",
    "ReentrantCall",
    "Result",
    "SchemaUnsupported",
    "SettingsError",
    "State",
    "Status",
    "StorageError",
    "StoreAddress",
    "Submission",
    "SubmitOptions",
    "Task",
    "TaskExpired",
    "TaskFailed",
    "TaskHandle",
    "TaskNotDone",
    "TaskRevoked",
    "TaskUnknown",
    "Usage",
    "Verdict",
    "VisionqError",
    "WaitTimeout",
]
