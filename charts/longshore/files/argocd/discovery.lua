local status = obj.status or {}
local state = (status.rollout or {}).state or {}
local phase = state.phase or "Idle"
local stable = state.stable
local tries = stable ~= nil
  and (phase == "Starting" or phase == "Preflight" or phase == "Stepping" or phase == "Promoting")
local stalled = false
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    stalled = true
  end
end
local other = false
for _, revision in ipairs(status.revisions or {}) do
  if revision.phase == "Retired" and revision.name ~= stable then
    other = true
  end
end

local actions = {}
local function offer(name, title, icon, enabled, params)
  actions[name] = {
    ["disabled"] = not enabled,
    ["displayName"] = title,
    ["iconClass"] = icon,
    ["params"] = params
  }
end

offer("promote", "Promote", "fa fa-fw fa-step-forward", phase == "Stepping" or phase == "Baking")
offer("promote-full", "Promote fully", "fa fa-fw fa-fast-forward", tries)
offer("pause", "Pause", "fa fa-fw fa-pause", tries and not state.paused)
offer("resume", "Resume", "fa fa-fw fa-play", state.paused == true)
offer("abort", "Abort", "fa fa-fw fa-stop", tries or phase == "Baking")
offer("retry", "Retry", "fa fa-fw fa-redo", stalled)
offer("rollback", "Roll back", "fa fa-fw fa-undo", other, {{["name"] = "revision"}, {["name"] = "force"}})
return actions
