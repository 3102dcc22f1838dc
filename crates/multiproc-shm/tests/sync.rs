//! The front of locks, semaphores, events, conditions and barriers, as a program uses it that has
//! nothing else of the library: processes are made by fork(2).

mod common;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_shm::lock::robust_word::Poison;
use multiproc_shm::memory::slab::{Slab, Slot};
use multiproc_shm::sync::{
    Acquired, Barrier, BarrierError, Condition, ConditionError, Event, Lock, ProcessLock, ReleaseError, RwLock,
    Semaphore, WaitError,
};
use multiproc_shm::wait::deadline::Deadline;

use common::*;

mod lock {
    use super::*;

    #[test]
    fn smoke() {
        let lock = Lock::create().unwrap();
        assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken);
        assert!(lock.is_locked() && lock.is_mine());
        assert!(matches!(lock.acquire(long()), Err(WaitError::AlreadyHeld)));
        lock.release().unwrap();
        assert_eq!(lock.release(), Err(ReleaseError::NotHeld));
        assert!(!lock.is_locked());
    }

    #[test]
    fn try_acquire_and_acquire_timeout() {
        let lock = Lock::create().unwrap();
        let same = Lock::from_fds([lock.to_fd().unwrap()]).unwrap();
        let _ = lock.acquire(Deadline::Now).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(matches!(same.acquire(Deadline::Now), Err(WaitError::Timeout)));
                let begun = Instant::now();
                assert!(matches!(same.acquire(soon()), Err(WaitError::Timeout)));
                assert!(begun.elapsed() >= Duration::from_millis(20));
                assert_eq!(same.release(), Err(ReleaseError::NotHeld), "another thread holds it");
            });
        });
        lock.release().unwrap();
    }

    #[test]
    fn owner_dies() {
        let (lock, held) = (Lock::create().unwrap(), Event::create().unwrap());
        let pid = fork(|| {
            let _ = lock.acquire(long()).unwrap();
            held.set();
            sleep_for_ever();
        });
        held.wait(long()).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let acquired = lock.acquire(long()).unwrap();
                lock.clear_poison();
                lock.release().unwrap();
                acquired
            });
            kill(pid);
            assert_eq!(waiter.join().unwrap(), Acquired::Poisoned { cause: Poison::Died, pid: Some(pid) });
        });
        assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken);
        status_of(pid);
    }

    #[test]
    fn one_at_a_time() {
        let (lock, count) = (Lock::create().unwrap(), Semaphore::create(0, None).unwrap());
        let count_up = || {
            for _ in 0..2000 {
                let _ = lock.acquire(long()).unwrap();
                // Not one operation, so that a second holder would be noticed.
                let before = count.available();
                count.add(1).unwrap();
                assert_eq!(count.available(), before + 1);
                lock.release().unwrap();
            }
        };
        let children: Vec<i32> = (0..3).map(|_| fork(count_up)).collect();
        children.into_iter().for_each(succeeds);
        assert_eq!(count.available(), 6000);
    }

    #[test]
    fn a_copy_does_not_hold_it() {
        let lock = Lock::create().unwrap();
        let _ = lock.acquire(long()).unwrap();
        succeeds(fork(|| {
            assert_eq!(lock.release(), Err(ReleaseError::NotHeld));
            assert!(matches!(lock.acquire(Deadline::Now), Err(WaitError::Timeout)));
        }));
        lock.release().unwrap();
    }

    #[test]
    fn interrupted() {
        in_its_own_process(|| {
            let (lock, held) = (Lock::create().unwrap(), Event::create().unwrap());
            std::thread::scope(|scope| {
                let (over, ended) = std::sync::mpsc::channel::<()>();
                let (holder, is_held) = (lock.clone(), held.clone());
                scope.spawn(move || {
                    let _ = holder.acquire(long()).unwrap();
                    is_held.set();
                    let _ = ended.recv();
                    holder.release().unwrap();
                });
                held.wait(long()).unwrap();
                let signals = Signals::to_this_thread();
                let interrupted = lock.clone().interruptible().acquire(Deadline::Never);
                assert!(matches!(interrupted, Err(WaitError::Interrupted)), "{interrupted:?}");
                let late = lock.acquire(Deadline::after(Duration::from_millis(50)));
                assert!(matches!(late, Err(WaitError::Timeout)), "other handles aren't interruptible: {late:?}");
                drop((signals, over));
            });
        });
    }
}

mod process_lock {
    use super::*;

    #[test]
    fn smoke() {
        let lock = ProcessLock::create().unwrap();
        assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken);
        assert!(lock.is_locked());
        assert!(matches!(lock.acquire(soon()), Err(WaitError::Timeout)), "it isn't reentrant");
        lock.release().unwrap();
        assert_eq!(lock.release(), Err(ReleaseError::NotHeld));
        assert!(!lock.is_locked());
    }

    #[test]
    fn try_acquire() {
        let lock = ProcessLock::create().unwrap();
        assert_eq!(lock.try_acquire().unwrap(), Some(Acquired::Taken));
        assert_eq!(lock.try_acquire().unwrap(), None);
        succeeds(fork(|| assert_eq!(lock.try_acquire().unwrap(), None)));
    }

    #[test]
    fn release_by_other_thread() {
        let lock = ProcessLock::create().unwrap();
        let _ = lock.acquire(long()).unwrap();
        std::thread::scope(|scope| scope.spawn(|| lock.release()).join().unwrap()).unwrap();
        assert_eq!(lock.acquire(Deadline::Now).unwrap(), Acquired::Taken);
    }

    #[test]
    fn release_by_other_process() {
        let (lock, held) = (ProcessLock::create().unwrap(), Event::create().unwrap());
        let _ = lock.acquire(long()).unwrap();
        succeeds(fork(|| lock.release().unwrap()));
        assert_eq!(lock.release(), Err(ReleaseError::NotHeld));
        let pid = fork(|| {
            let _ = lock.acquire(long()).unwrap();
            held.set();
            sleep_for_ever();
        });
        held.wait(long()).unwrap();
        lock.release().unwrap();
        assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken);
        kill(pid);
        status_of(pid);
        assert!(matches!(lock.acquire(soon()), Err(WaitError::Timeout)), "the dead process had released it");
        lock.release().unwrap();
        assert!(!lock.is_poisoned());
    }

    #[test]
    fn release_wakes_a_waiter_of_another_process() {
        let lock = ProcessLock::create().unwrap();
        for pause in 0..20 {
            let _ = lock.acquire(long()).unwrap();
            let pid = fork(|| {
                assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken);
                lock.release().unwrap();
            });
            // The waiter may be in any stage of its wait.
            std::thread::sleep(Duration::from_millis(pause));
            lock.release().unwrap();
            succeeds(pid);
        }
    }

    #[test]
    fn owner_dies() {
        let (lock, held) = (ProcessLock::create().unwrap(), Event::create().unwrap());
        for tries in [false, true] {
            held.clear();
            let pid = fork(|| {
                let _ = lock.acquire(long()).unwrap();
                held.set();
                sleep_for_ever();
            });
            held.wait(long()).unwrap();
            let acquired = if tries {
                kill(pid);
                status_of(pid);
                lock.try_acquire().unwrap().unwrap()
            } else {
                let acquired = std::thread::scope(|scope| {
                    let waiter = scope.spawn(|| lock.acquire(long()).unwrap());
                    kill(pid);
                    waiter.join().unwrap()
                });
                status_of(pid);
                acquired
            };
            assert_eq!(acquired, Acquired::Poisoned { cause: Poison::Died, pid: Some(pid) });
            lock.release().unwrap();
            assert!(lock.is_poisoned() && lock.acquire(long()).unwrap().is_poisoned(), "until it is cleared");
            lock.clear_poison();
            lock.release().unwrap();
            assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken);
            lock.release().unwrap();
        }
    }

    #[test]
    fn interrupted() {
        in_its_own_process(|| {
            let lock = ProcessLock::create().unwrap().interruptible();
            let _ = lock.acquire(long()).unwrap();
            let signals = Signals::to_this_thread();
            // Often, since a signal finds the wait in each of its stages.
            for _ in 0..100 {
                let interrupted = lock.acquire(Deadline::Never);
                assert!(matches!(interrupted, Err(WaitError::Interrupted)), "{interrupted:?}");
            }
            drop(signals);
            let _could_release = lock.clone();
            assert!(matches!(lock.acquire(soon()), Err(WaitError::Timeout)));
        });
    }

    #[test]
    fn is_no_semaphore() {
        let lock = ProcessLock::create().unwrap();
        assert!(Semaphore::from_fds(lock.to_fds().unwrap()).is_err());
        let semaphore = Semaphore::create(1, Some(1)).unwrap();
        assert!(ProcessLock::from_fds(semaphore.to_fds().unwrap()).is_err());
        assert!(Event::from_fds(lock.to_fds().unwrap()).is_err());
    }
}

mod semaphore {
    use super::*;

    #[test]
    fn smoke() {
        let semaphore = Semaphore::create(2, Some(2)).unwrap();
        semaphore.acquire(long()).unwrap();
        assert!(semaphore.try_acquire().unwrap());
        assert!(!semaphore.try_acquire().unwrap());
        assert!(matches!(semaphore.acquire(Deadline::Now), Err(WaitError::Timeout)));
        assert!(matches!(semaphore.acquire(soon()), Err(WaitError::Timeout)));
        semaphore.release().unwrap();
        semaphore.release().unwrap();
        assert_eq!(semaphore.release(), Err(ReleaseError::NotHeld));
        assert_eq!(semaphore.add(1), Err(ReleaseError::TooMany(2)));
        assert_eq!(semaphore.available(), 2);
    }

    #[test]
    fn release_by_other_process() {
        let (semaphore, acquired) = (Semaphore::create(3, None).unwrap(), Event::create().unwrap());
        let pid = fork(|| {
            semaphore.acquire(long()).unwrap();
            semaphore.acquire(long()).unwrap();
            acquired.set();
            sleep_for_ever();
        });
        acquired.wait(long()).unwrap();
        semaphore.acquire(long()).unwrap();
        semaphore.release().unwrap();
        semaphore.release().unwrap();
        assert_eq!(semaphore.available(), 2, "this process's own, and one of the other's");
        kill(pid);
        status_of(pid);
        assert!(semaphore.reclaim().unwrap());
        assert_eq!(semaphore.available(), 3, "a permit that was released isn't released again");
        assert_eq!(semaphore.release(), Err(ReleaseError::NotHeld));
    }

    #[test]
    fn as_a_signal() {
        let items = Semaphore::create(0, None).unwrap();
        let pid = fork(|| (0..500).for_each(|_| items.add(1).unwrap()));
        for _ in 0..500 {
            items.acquire(long()).unwrap();
            items.forget();
        }
        succeeds(pid);
        assert!(!items.try_acquire().unwrap());
        assert_eq!(items.release(), Err(ReleaseError::NotHeld), "consumers hold nothing");
    }

    #[test]
    fn disconnected() {
        in_its_own_process(|| {
            let semaphore = Semaphore::create(0, None).unwrap();
            let same = Semaphore::from_fds(semaphore.to_fds().unwrap()).unwrap();
            drop(semaphore);
            let alone = same.acquire(long());
            assert!(matches!(alone, Err(WaitError::Disconnected)), "{alone:?}");
        });
    }

    #[test]
    fn interrupted() {
        in_its_own_process(|| {
            let semaphore = Semaphore::create(0, None).unwrap();
            let interruptible = semaphore.clone().interruptible();
            let signals = Signals::to_this_thread();
            for _ in 0..100 {
                let interrupted = interruptible.acquire(Deadline::Never);
                assert!(matches!(interrupted, Err(WaitError::Interrupted)), "{interrupted:?}");
            }
            let late = semaphore.acquire(Deadline::after(Duration::from_millis(50)));
            assert!(matches!(late, Err(WaitError::Timeout)), "other handles aren't interruptible: {late:?}");
            drop(signals);
        });
    }

    /// Another process is stopped while it holds the semaphore's spin lock.
    #[test]
    fn try_acquire_waits_for_nothing() {
        let semaphore = Semaphore::create(1, None).unwrap();
        let pid = stop_inside(
            || semaphore.add(1).unwrap(),
            || match semaphore.try_acquire() {
                // Takes what the process has added, unless it hasn't begun yet.
                Ok(_) => false,
                Err(WaitError::Busy) => true,
                Err(error) => panic!("{error}"),
            },
        );
        assert!(matches!(semaphore.try_acquire(), Err(WaitError::Busy)));
        // A deadline is kept too, and the error names the process.
        let stalled = semaphore.acquire(soon());
        assert!(matches!(&stalled, Err(WaitError::Stalled(by)) if by.pid == pid), "{stalled:?}");
        kill(pid);
        status_of(pid);
        assert!(semaphore.try_acquire().unwrap());
    }
}

mod event {
    use super::*;

    #[test]
    fn smoke() {
        let event = Event::create().unwrap();
        let _could_set = event.clone();
        assert!(!event.is_set());
        assert!(matches!(event.wait(Deadline::Now), Err(WaitError::Timeout)));
        assert!(matches!(event.wait(soon()), Err(WaitError::Timeout)));
        let pid = fork(|| event.set());
        event.wait(long()).unwrap();
        succeeds(pid);
        event.clear();
        assert!(!event.is_set());
    }

    #[test]
    fn interrupted() {
        in_its_own_process(|| {
            let event = Event::create().unwrap();
            let _other = event.clone();
            let signals = Signals::to_this_thread();
            let interrupted = event.interruptible().wait(Deadline::Never);
            assert!(matches!(interrupted, Err(WaitError::Interrupted)), "{interrupted:?}");
            drop(signals);
        });
    }
}

mod condition {
    use super::*;

    #[test]
    fn smoke() {
        let (lock, condition) = (Lock::create().unwrap(), Condition::create().unwrap());
        assert!(matches!(condition.wait(&lock, long()), Err(ConditionError::NotHeld)));
        assert_eq!(condition.notify(&lock, 1), 0);
        let _ = lock.acquire(long()).unwrap();
        let pid = fork(|| {
            let _ = lock.acquire(long()).unwrap();
            assert_eq!(condition.notify(&lock, 5), 1);
            lock.release().unwrap();
        });
        condition.wait(&lock, long()).unwrap();
        assert!(lock.is_mine());
        let _could_notify = condition.clone();
        let late = condition.wait(&lock, soon());
        assert!(matches!(late, Err(ConditionError::Wait(WaitError::Timeout))), "{late:?}");
        assert!(lock.is_mine());
        lock.release().unwrap();
        succeeds(pid);
    }

    #[test]
    fn owner_dies() {
        let (lock, condition) = (Lock::create().unwrap(), Condition::create().unwrap());
        let _ = lock.acquire(long()).unwrap();
        let pid = fork(|| {
            let _ = lock.acquire(long()).unwrap();
            kill(std::process::id() as i32);
        });
        let waited = condition.wait(&lock, long());
        assert!(matches!(waited, Err(ConditionError::Poisoned(Poison::Died, _))), "{waited:?}");
        assert!(lock.is_mine());
        lock.release().unwrap();
        status_of(pid);
    }

    #[test]
    fn interrupted() {
        in_its_own_process(|| {
            let (lock, condition) = (Lock::create().unwrap(), Condition::create().unwrap());
            let _other = condition.clone();
            let _ = lock.acquire(long()).unwrap();
            let signals = Signals::to_this_thread();
            let interrupted = condition.interruptible().wait(&lock, Deadline::Never);
            assert!(matches!(interrupted, Err(ConditionError::Wait(WaitError::Interrupted))), "{interrupted:?}");
            assert!(lock.is_mine());
            drop(signals);
        });
    }
}

mod barrier {
    use super::*;

    #[test]
    fn smoke() {
        let barrier = Barrier::create(3).unwrap();
        let rounds = || (0..50).for_each(|_| assert!(barrier.wait(long()).unwrap() < 3));
        let children: Vec<i32> = (0..2).map(|_| fork(rounds)).collect();
        rounds();
        // A party that ends while others are still in the last round has arrived in it.
        children.into_iter().for_each(succeeds);
        assert_eq!((barrier.parties(), barrier.arrived()), (3, 0));
    }

    #[test]
    fn timeout_breaks_it() {
        let barrier = Barrier::create(2).unwrap();
        let _could_arrive = barrier.clone();
        let late = barrier.wait(soon());
        assert!(matches!(late, Err(BarrierError::Wait(WaitError::Timeout))), "{late:?}");
        assert!(barrier.is_broken());
        assert!(matches!(barrier.wait(long()), Err(BarrierError::Broken(_))));
        barrier.reset();
        assert!(!barrier.is_broken());
    }

    #[test]
    fn interrupted() {
        in_its_own_process(|| {
            let barrier = Barrier::create(2).unwrap();
            let other = barrier.clone();
            let signals = Signals::to_this_thread();
            let interrupted = barrier.interruptible().wait(Deadline::Never);
            assert!(matches!(interrupted, Err(BarrierError::Wait(WaitError::Interrupted))), "{interrupted:?}");
            assert!(other.is_broken(), "a party that has arrived can't be taken back");
            drop(signals);
        });
    }
}

mod rwlock {
    use super::*;

    #[test]
    fn smoke() {
        let lock = RwLock::create().unwrap();
        let _ = lock.acquire_read(long()).unwrap();
        let _ = lock.acquire_read(long()).unwrap();
        assert!(matches!(lock.acquire_write(long()), Err(WaitError::AlreadyHeld)));
        succeeds(fork(|| {
            assert_eq!(lock.release_read(), Err(ReleaseError::NotHeld), "the original reads");
            let _ = lock.acquire_read(Deadline::Now).unwrap();
            lock.release_read().unwrap();
            assert!(matches!(lock.acquire_write(soon()), Err(WaitError::Timeout)));
        }));
        lock.release_read().unwrap();
        lock.release_read().unwrap();
        assert_eq!(lock.release_read(), Err(ReleaseError::NotHeld));
        let _ = lock.acquire_write(long()).unwrap();
        succeeds(fork(|| assert!(matches!(lock.acquire_read(soon()), Err(WaitError::Timeout)))));
        lock.release_write().unwrap();
        assert_eq!(lock.release_write(), Err(ReleaseError::NotHeld));
    }

    #[test]
    fn owner_dies() {
        let (lock, held) = (RwLock::create().unwrap(), Semaphore::create(0, None).unwrap());
        for writes in [false, true] {
            let pid = fork(|| {
                let _ = if writes { lock.acquire_write(long()) } else { lock.acquire_read(long()) }.unwrap();
                held.add(1).unwrap();
                sleep_for_ever();
            });
            held.acquire(long()).unwrap();
            held.forget();
            kill(pid);
            let wanted =
                if writes { Acquired::Poisoned { cause: Poison::Died, pid: Some(pid) } } else { Acquired::Taken };
            assert_eq!(lock.acquire_write(long()).unwrap(), wanted);
            lock.release_write().unwrap();
            status_of(pid);
        }
    }

    #[test]
    fn interrupted() {
        in_its_own_process(|| {
            let (lock, held) = (RwLock::create().unwrap(), Event::create().unwrap());
            std::thread::scope(|scope| {
                let (over, ended) = std::sync::mpsc::channel::<()>();
                let (reader, is_held) = (lock.clone(), held.clone());
                scope.spawn(move || {
                    let _ = reader.acquire_read(long()).unwrap();
                    is_held.set();
                    let _ = ended.recv();
                    reader.release_read().unwrap();
                });
                held.wait(long()).unwrap();
                let signals = Signals::to_this_thread();
                let interrupted = lock.clone().interruptible().acquire_write(Deadline::Never);
                assert!(matches!(interrupted, Err(WaitError::Interrupted)), "{interrupted:?}");
                drop(signals);
                // A writer that has given up keeps no reader out.
                let _ = lock.acquire_read(Deadline::Now).unwrap();
                lock.release_read().unwrap();
                drop(over);
            });
        });
    }
}

mod slab {
    use super::*;

    #[test]
    fn many_objects_few_descriptors() {
        in_its_own_process(|| {
            let before = descriptors();
            let slab = Slab::create(3000).unwrap();
            let locks: Vec<Lock> = (0..500).map(|_| Lock::create_in(&slab).unwrap()).collect();
            let process_locks: Vec<ProcessLock> = (0..500).map(|_| ProcessLock::create_in(&slab).unwrap()).collect();
            let semaphores: Vec<Semaphore> = (0..600).map(|_| Semaphore::create_in(&slab, 1, None).unwrap()).collect();
            let events: Vec<Event> = (0..500).map(|_| Event::create_in(&slab).unwrap()).collect();
            let barriers: Vec<Barrier> = (0..100).map(|_| Barrier::create_in(&slab, 1).unwrap()).collect();
            let conditions: Vec<Condition> = (0..100).map(|_| Condition::create_in(&slab).unwrap()).collect();
            assert_eq!(descriptors() - before, 2);
            for lock in &locks {
                let _ = lock.acquire(long()).unwrap();
                lock.release().unwrap();
            }
            process_locks.iter().for_each(|lock| assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken));
            semaphores.iter().for_each(|semaphore| semaphore.acquire(long()).unwrap());
            events.iter().step_by(2).for_each(Event::set);
            barriers.iter().for_each(|barrier| assert_eq!(barrier.wait(long()).unwrap(), 0));
            assert!(events.iter().enumerate().all(|(index, event)| event.is_set() == (index % 2 == 0)));
            assert!(semaphores.iter().all(|semaphore| semaphore.available() == 0));
            assert!(conditions.iter().all(|condition| condition.waiting() == 0));
            process_locks.iter().for_each(|lock| lock.release().unwrap());
            assert!(process_locks.iter().all(|lock| !lock.is_locked()));
            assert_eq!(descriptors() - before, 2);
            let index = |slot: Option<&Slot>| slot.unwrap().index();
            assert_eq!((index(locks[7].slot()), index(semaphores[0].slot()), slab.used()), (7, 1000, 2300));
            assert!(locks[0].to_fd().is_err() && events[0].to_fds().is_err());
            drop((locks, process_locks, semaphores, events, barriers, conditions, slab));
            assert_eq!(descriptors(), before);
        });
    }

    #[test]
    fn objects_are_shared_with_another_process() {
        let slab = Slab::create(8).unwrap();
        let (lock, done) = (ProcessLock::create_in(&slab).unwrap(), Event::create_in(&slab).unwrap());
        let fds: [OwnedFd; 2] = slab.to_fds().unwrap();
        let _ = lock.acquire(long()).unwrap();
        let pid = fork(move || {
            // As a process that has received the descriptors and the indices.
            let slab = Slab::from_fds(fds).unwrap();
            assert!(ProcessLock::open_in(&slab, 1).is_err(), "an event");
            assert!(Event::open_in(&slab, 2).is_err(), "no object");
            let (lock, done) = (ProcessLock::open_in(&slab, 0).unwrap(), Event::open_in(&slab, 1).unwrap());
            let new = Semaphore::create_in(&slab, 7, None).unwrap();
            assert_eq!(new.slot().unwrap().index(), 2);
            assert_eq!(lock.acquire(long()).unwrap(), Acquired::Taken);
            done.set();
            sleep_for_ever();
        });
        // The other process waits on the pipe, most likely.
        std::thread::sleep(Duration::from_millis(10));
        lock.release().unwrap();
        done.wait(long()).unwrap();
        assert_eq!(Semaphore::open_in(&slab, 2).unwrap().available(), 7);
        kill(pid);
        assert_eq!(lock.acquire(long()).unwrap(), Acquired::Poisoned { cause: Poison::Died, pid: Some(pid) });
        status_of(pid);
    }

    /// More processes than there is room for beside an object.
    #[test]
    fn a_semaphore_of_many_processes() {
        const MANY: usize = 80;
        let slab = Slab::create(2).unwrap();
        let semaphore = Semaphore::create_in(&slab, MANY, None).unwrap();
        let acquired = Semaphore::create_in(&slab, 0, None).unwrap();
        let hold = || {
            semaphore.acquire(long()).unwrap();
            acquired.add(1).unwrap();
            sleep_for_ever();
        };
        let children: Vec<i32> = (0..MANY).map(|_| fork(hold)).collect();
        for _ in 0..MANY {
            acquired.acquire(long()).unwrap();
            acquired.forget();
        }
        assert_eq!(semaphore.available(), 0);
        for pid in &children {
            kill(*pid);
            status_of(*pid);
        }
        semaphore.acquire(long()).unwrap();
        assert_eq!(semaphore.available(), MANY - 1);
    }

    #[test]
    fn a_wait_does_not_end_because_no_other_process_is_left() {
        in_its_own_process(|| {
            let slab = Slab::create(1).unwrap();
            let event = Event::create_in(&slab).unwrap();
            let late = || event.wait(Deadline::after(Duration::from_millis(50)));
            assert!(matches!(late(), Err(WaitError::Timeout)));
            succeeds(fork(|| assert!(matches!(late(), Err(WaitError::Timeout)))));
        });
    }
}

/// Threads of this process use the objects all the time, while copies are made that use them too.
#[test]
fn fork_in_threaded_program() {
    in_its_own_process(|| {
        let slab = Slab::create(8).unwrap();
        let (alone, in_slab) = (Semaphore::create(4, None).unwrap(), Semaphore::create_in(&slab, 4, None).unwrap());
        let (lock, process_lock) = (Lock::create().unwrap(), ProcessLock::create_in(&slab).unwrap());
        let event = Event::create_in(&slab).unwrap();
        let (is_over, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
        let use_all = || {
            for semaphore in [&alone, &in_slab] {
                let other = semaphore.clone();
                other.acquire(long()).unwrap();
                other.give_back();
            }
            let _ = lock.acquire(long()).unwrap();
            lock.release().unwrap();
            let _ = process_lock.acquire(long()).unwrap();
            process_lock.release().unwrap();
            // Long enough to wait on the wake pipe, which changes the notifier's state.
            assert!(matches!(event.wait(Deadline::after(Duration::from_millis(5))), Err(WaitError::Timeout)));
            rounds.fetch_add(1, SeqCst);
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(SeqCst) {
                        use_all();
                    }
                });
            }
            for _ in 0..200 {
                succeeds(fork(|| (0..3).for_each(|_| use_all())));
            }
            is_over.store(true, SeqCst);
        });
        assert!(rounds.load(SeqCst) > 0);
    });
}
