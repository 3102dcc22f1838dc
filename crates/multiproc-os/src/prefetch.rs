//! Asks the processor for memory ahead of time. A hint, which changes nothing but how long things take.

/// The line of the cache that `address` is in is about to be written to: it is fetched such that nobody else has it. It need not be mapped.
#[inline]
pub fn for_write<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction accesses nothing as far as the program can tell, and does nothing where it isn't known.
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
    fn any_address_will_do() {
        let here = [0_u8; 64];
        super::for_write(&here);
        super::for_write(std::ptr::null::<u8>());
        super::for_write(usize::MAX as *const u8);
    }
}
