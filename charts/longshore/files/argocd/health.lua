local health = {status = "Progressing", message = "waiting for the operator"}
if obj.metadata.deletionTimestamp ~= nil then
  health.message = "being deleted"
  return health
end
if obj.status == nil or obj.status.conditions == nil then
  return health
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "waiting for the operator to see the change"
  return health
end
local is, reason = {}, {}
for _, condition in ipairs(obj.status.conditions) do
  is[condition.type] = condition.status
  reason[condition.type] = condition.reason
end
health.message = obj.status.message or ""
if is["Stalled"] == "True" then
  -- Somebody is waited for on purpose; nothing is wrong.
  if reason["Stalled"] == "Paused" or reason["Stalled"] == "WaitingForPromotion" then
    health.status = "Suspended"
  else
    health.status = "Degraded"
  end
elseif is["Reconciling"] == "True" then
  health.status = "Progressing"
elseif is["Ready"] == "True" then
  health.status = "Healthy"
elseif obj.status.phase == "Idle" then
  health.status = "Suspended"
end
return health
