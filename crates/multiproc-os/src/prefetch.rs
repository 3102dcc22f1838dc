//! Prefetches cache lines. A hint to the processor, which affects only timing.

/// Announces a write to the cache line at `address`: the processor fetches it with exclusive
/// ownership. The address need not be mapped.
#[inline]
pub fn for_write<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction has no effect visible to the program, and does nothing where it isn't
    // known.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_address() {
        let here = [0_u8; 64];
        super::for_write(&here);
        super::for_write(std::ptr::null::<u8>());
        super::for_write(usize::MAX as *const u8);
    }
}
