"""Array types that say the dimension: the shape is checked at the door, the type names it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float1D = NDArray[np.float64]
Float2D = NDArray[np.float64]
Float3D = NDArray[np.float64]
Float5D = NDArray[np.float64]
Int1D = NDArray[np.int64]
Int2D = NDArray[np.int64]
Bool1D = NDArray[np.bool_]
Bool2D = NDArray[np.bool_]
