"""One object of COIL-100 is normal, the other 99 are anomalies (thesis 5.2.2); minutes on a CPU.

python -m vtadl_jax.main --config configs/coil100.py:17 --config.data.root=DIR

DIR holds obj1__0.png to obj100__355.png. The test set has a fifth of the object's 72 views
(`data.test_fraction`) and as many views of other objects. Images keep their own 128×128 pixels; the
thesis uses 120×120 to fit its network.
"""

from vtadl_jax.configs import demo


def get_config(category: str = "1"):
    c = demo.small_vtadl(category)
    c.data.source = "coil100"
    c.data.root = ""
    c.data.balanced_test = True
    c.eval.term_weights = (1.0, 1.0, 0.0)
    return c
