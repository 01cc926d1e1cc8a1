"""Training and evaluation of hypernetworks; needs a corpus folder, never ships one."""
