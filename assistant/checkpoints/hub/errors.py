"""What the Hub and the way to it say, in sentences that end in what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from fourfold.assistant.checkpoints.cache import is_offline
from fourfold.prompts.errors import UserError, first_line

LOGIN = "a token (HF_TOKEN, or `hf auth login`)"


@contextmanager
def hub_errors(name: str, what: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into a UserError.

    Args:
        name: of the repository, `org/name`, with its revision where one is asked for.
        what: what was wanted, as messages begin: "pushing org/name".
    """
    from huggingface_hub import constants, errors

    # Of the HTTP library, which is another one in each major version of huggingface_hub.
    transport_error = cast("type[Exception]", errors.HfHubHTTPError.__bases__[0])
    unreachable = UserError(
        f"{what}: the Hub cannot be reached ({constants.ENDPOINT}); check the network, or HF_ENDPOINT"
    )
    try:
        yield
    except errors.RevisionNotFoundError:
        raise UserError(
            f"the Hub has no {name}: there is such a repository, but no such revision; check what stands behind the @"
        ) from None
    except errors.GatedRepoError:
        raise UserError(f"{name} is gated: ask for access on its page, and give {LOGIN} that has it") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"there is no directory {name} here, and the Hub has no model of that name; a private one needs {LOGIN}"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        # IncompleteSnapshotError is a LocalEntryNotFoundError; the cause is what the Hub said, where it answered.
        if is_offline() or constants.is_offline_mode():
            setting = "FOURFOLD_OFFLINE" if is_offline() else "HF_HUB_OFFLINE"
            raise UserError(
                f"there is no directory {name} here nor a whole model of that name in the Hub's cache, and {setting} "
                "is set; unset it for one start"
            ) from None
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refused(error.__cause__, what) from None
        raise unreachable from None
    except errors.HfHubHTTPError as error:
        raise _refused(error, what) from None
    except transport_error:
        raise unreachable from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{what} needs {LOGIN}") from None
    except errors.HFValidationError as error:
        raise UserError(f"{name} is no name that the Hub can have: {first_line(error)}") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(
            f"the Hub's cache {constants.HF_HUB_CACHE} cannot be written ({os.strerror(error.errno)}); make room or "
            "make it yours, or set HF_HOME to a directory elsewhere"
        ) from None


def _refused(error: Exception, what: str) -> UserError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return UserError(f"{what}: the Hub refuses ({status}); it needs {LOGIN} that is allowed to")
    return UserError(f"{what}: {f'the Hub answered {status}' if status else first_line(error)}; try again later")
