"""What passes between the operator, the optimize Job and the pods: request, report and manifest."""
