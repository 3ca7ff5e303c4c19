"""The same work done by others, each at its best. Run only in processes of their own, which never load our kernels."""
