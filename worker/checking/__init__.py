"""The checker: a new process for each job, without GPU and torch, that checks the model and the data of the spec."""
