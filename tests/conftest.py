import torch

torch.set_num_threads(
    1
)  # tests run beside each other and beside their own subprocesses; threads that wait busily fight
