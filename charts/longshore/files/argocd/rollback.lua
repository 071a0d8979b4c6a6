local params = actionParams or {}
local wanted = params["revision"]
local names = {}
for _, revision in ipairs((obj.status or {}).revisions or {}) do
  if revision.phase ~= "Stable" then
    names[#names + 1] = revision.name
    -- The newest comes first; one that failed is taken only by name.
    if (wanted == nil or wanted == "") and revision.phase == "Retired" then
      wanted = revision.name
    end
  end
end
local known = false
for _, name in ipairs(names) do
  known = known or name == wanted
end
if not known then
  error("there is no revision " .. tostring(wanted) .. " to go back to; there are: " .. table.concat(names, ", "))
end
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
local force = params["force"] == "true" and ",force" or ""
obj.metadata.annotations["longshore.dev/rollback"] = wanted .. force
return obj
