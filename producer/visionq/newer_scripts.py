"""The Lua that tells whether a worker is alive that reads a newer contract than this one.

Part of the scripts that find a task, or a record, of a newer version: it is left to such a worker,
and ends as unsupported only when none has reported for `NEWER_GRACE_SECONDS`.
"""

from __future__ import annotations

REPORT_TTL_SECONDS = 20
"""How long a worker is believed to be alive after it has reported."""
NEWER_GRACE_SECONDS = 2 * REPORT_TTL_SECONDS
"""How long a newer task waits where no worker that reads it reports: one may be restarting."""

# The highest contract version that a worker reads which has reported lately; 0 without any. A
# report without it is of a worker that reads version 1.
NEWEST_READER = (
    f"local REPORT_TTL, NEWER_GRACE = {REPORT_TTL_SECONDS}, {NEWER_GRACE_SECONDS}\n"
    + """
local KNOWN = {PENDING = 1, STARTED = 1, PROGRESS = 1, RETRY = 1, SUCCESS = 1, FAILURE = 1,
  REVOKED = 1, EXPIRED = 1}

local function newest_reader(workers)
  local newest = 0
  for _, told in ipairs(redis.pcall('HVALS', workers)) do
    local at, report = string.match(told, '^(%d+) (.*)$')
    if at and math.abs(now - at) <= REPORT_TTL then
      local is_json, said = pcall(cjson.decode, report)
      local version = is_json and type(said) == 'table' and tonumber(said.contract_version) or 1
      newest = math.max(newest, version)
    end
  end
  return newest
end
"""
)
