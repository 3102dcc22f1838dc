//! Guards of an array as views of the crate `ndarray`: matrices and the like.

use multiproc_shm::memory::cell::Plain;
use ndarray::{ArrayView, ArrayViewMut, Dimension, ShapeError, StrideShape};

use super::guard::{ArrayGuard, ArrayReadGuard};

impl<T: Plain> ArrayReadGuard<'_, T> {
    /// Returns the values as an array of this shape, `(rows, columns)` for example, without a copy.
    ///
    /// # Errors
    /// [`ShapeError`] if there are too few values for it.
    pub fn as_ndarray<D: Dimension>(
        &self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayView<'_, T, D>, ShapeError> {
        ArrayView::from_shape(shape, self)
    }
}

impl<T: Plain> ArrayGuard<'_, T> {
    /// Returns the values as an array of this shape, `(rows, columns)` for example, without a copy.
    ///
    /// # Errors
    /// [`ShapeError`] if there are too few values for it.
    pub fn as_ndarray<D: Dimension>(
        &self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayView<'_, T, D>, ShapeError> {
        ArrayView::from_shape(shape, self)
    }

    /// Returns the values as a mutable array of this shape, without a copy.
    ///
    /// ```
    /// use multiproc::Array;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let array = Array::<f64>::new(6)?;
    /// let mut guard = array.lock()?;
    /// let mut matrix = guard.as_ndarray_mut((2, 3)).expect("2 * 3 = 6");
    /// matrix[[1, 2]] = 1.5;
    /// matrix += 1.0;
    /// drop(guard);
    /// assert_eq!(array.to_vec()?, [1.0, 1.0, 1.0, 1.0, 1.0, 2.5]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ShapeError`] if there are too few values for it.
    pub fn as_ndarray_mut<D: Dimension>(
        &mut self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayViewMut<'_, T, D>, ShapeError> {
        ArrayViewMut::from_shape(shape, self)
    }
}
