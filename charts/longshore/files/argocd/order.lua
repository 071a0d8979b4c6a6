if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
-- The time makes the same order, given twice, two orders.
obj.metadata.annotations["longshore.dev/@order@"] = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
