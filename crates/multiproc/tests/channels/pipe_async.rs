//! Pipes, connections and listeners in `async` code: on tokio, which with the feature `tokio` wakes
//! the futures itself, and on another executor.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::common::{Ends, LONG, for_each_method, sleep_long};
use futures::channel::oneshot;
use futures::executor::block_on;
use futures::future::{Either, join, join_all, select};
use multiproc::connection::{
    Address, Connection, Key, Listener, Receiver, RecvErrorKind, RefusalReason, Sender, connect, connect_timeout,
    one_way,
};
use multiproc::{Process, pipe};
use tokio::runtime::Builder;

/// Runs the test on both executors; on tokio with and without I/O.
fn on_each<F: Future<Output = ()>>(test: impl Fn() -> F) {
    block_on(test());
    for build in [Builder::enable_all, Builder::enable_time] {
        let runtime = build(&mut Builder::new_current_thread()).build().unwrap();
        runtime.block_on(async { tokio::time::timeout(LONG, test()).await.expect("timed out") });
    }
}

/// Polls the future once, and asserts that it is pending.
async fn poll_pending<F: Future>(mut future: std::pin::Pin<&mut F>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

fn key() -> Key {
    Key::new("a key")
}

/// A connection over TCP, with both ends in this process.
async fn over_tcp<S: Send + 'static, R: Send + 'static>() -> (Connection<S, R>, Connection<R, S>) {
    let listener = Listener::bind(([127, 0, 0, 1], 0), key()).unwrap();
    let address = listener.local_address().clone();
    let client = std::thread::spawn(move || connect_timeout(address, key(), LONG).map_err(|error| error.to_string()));
    let accepted = listener.accept_async().await.unwrap();
    (accepted, client.join().ok().unwrap().unwrap())
}

fn double(connection: Connection<u64, u64>) {
    while let Ok(number) = connection.recv() {
        connection.send(number * 2).unwrap();
    }
}

fn hold<T>(_it: T) {
    sleep_long();
}

for_each_method! {
    fn smoke(method) not_fork {
        on_each(|| async {
            let (ours, theirs) = pipe::<u64, u64>().unwrap();
            let child = Process::new(double, (theirs,)).start_method(method).start().unwrap();
            for number in 0..100 {
                ours.send_async(number).await.unwrap();
                assert_eq!(ours.recv_async().await.unwrap(), number * 2);
            }
            drop(ours);
            child.await.unwrap();
        });
    }

    fn killed_sender_disconnects(method) not_fork {
        on_each(|| async {
            let (sender, receiver) = one_way::<u8>().unwrap();
            let (full, theirs) = one_way::<Vec<u8>>().unwrap();
            let child = Ends(Process::new(hold, ((sender, theirs),)).start_method(method).start().unwrap());
            let mut receiving = pin!(receiver.recv_async());
            poll_pending(receiving.as_mut()).await;
            while full.try_send(vec![7; 30_000]).is_ok() {}
            let mut sending = pin!(full.send_async(vec![7; 30_000]));
            poll_pending(sending.as_mut()).await;
            assert_eq!(child.kill_async().await.unwrap().exit_code(), Some(-9));
            assert!(matches!(receiving.await.unwrap_err().kind(), RecvErrorKind::Disconnected));
            assert!(sending.await.unwrap_err().is_disconnected());
        });
    }

    fn terminate(method) not_fork {
        on_each(|| async {
            let child = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
            assert_eq!(child.terminate_async().await.unwrap().exit_code(), Some(-15));
            assert_eq!(child.terminate_async().await.unwrap().exit_code(), Some(-15));
            assert_eq!(child.kill_async().await.unwrap().exit_code(), Some(-15));
        });
    }
}

async fn stream<T>(to: &Sender<T>, from: &Receiver<T>, count: usize, make: impl Fn(usize) -> T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let send = async {
        for index in 0..count {
            to.send_async(make(index)).await.unwrap();
        }
    };
    let receive = async {
        for index in 0..count {
            assert!(from.recv_async().await.unwrap() == make(index));
        }
    };
    join(send, receive).await;
}

#[multiproc::test]
fn one_task() {
    on_each(|| async {
        let large = |index: usize| vec![index as u8; 2_000_000];
        let (sender, receiver) = one_way().unwrap();
        stream(&sender, &receiver, 500, |index| vec![index as u8; 20_000]).await;
        stream(&sender, &receiver, 5, large).await;
        let (one, other) = over_tcp::<Vec<u8>, Vec<u8>>().await;
        stream(one.sender(), other.receiver(), 500, |index| vec![index as u8; 20_000]).await;
        stream(other.sender(), one.receiver(), 8, |index| vec![index as u8; 12_000_000]).await;
        drop(one);
        assert!(other.recv_async().await.unwrap_err().is_disconnected());
    });
}

#[multiproc::test]
fn dropped_future() {
    on_each(|| async {
        let (sender, receiver) = one_way::<u32>().unwrap();
        for number in 0..20 {
            {
                let mut receiving = pin!(receiver.recv_async());
                poll_pending(receiving.as_mut()).await;
                sender.send(number).unwrap();
            }
            assert_eq!(receiver.recv_async().await.unwrap(), number);
        }
        let (sender, receiver) = one_way::<Vec<u8>>().unwrap();
        let mut sent = 0;
        while sender.try_send(vec![7; 30_000]).is_ok() {
            sent += 1;
        }
        poll_pending(pin!(sender.send_async(vec![8; 30_000]))).await;
        for _ in 0..sent {
            assert_eq!(receiver.recv_async().await.unwrap()[0], 7);
        }
        assert!(receiver.try_recv().unwrap_err().is_empty(), "an unsent message arrived");
    });
}

#[multiproc::test]
fn dropped_future_over_tcp() {
    on_each(|| async {
        let (one, other) = over_tcp::<Vec<u8>, Vec<u8>>().await;
        poll_pending(pin!(one.send_async(vec![7; 40_000_000]))).await;
        let next = async {
            assert!(other.recv_async().await.unwrap() == vec![7; 40_000_000]);
            assert_eq!(other.recv_async().await.unwrap(), [1, 2, 3]);
        };
        join(async { one.send_async(vec![1, 2, 3]).await.unwrap() }, next).await;
    });
}

fn double_bytes(connection: Connection<(), ()>) {
    block_on(async {
        while let Ok(bytes) = connection.recv_bytes_async().await {
            connection.send_bytes_async(&[&bytes[..], &bytes[..]].concat()).await.unwrap();
        }
    });
}

for_each_method! {
    fn bytes(method) not_fork {
        on_each(|| async {
            let (ours, theirs) = pipe::<(), ()>().unwrap();
            let child = Process::new(double_bytes, (theirs,)).start_method(method).start().unwrap();
            for len in [0, 1, 1000, 32 << 10, (32 << 10) + 1, 3_000_000] {
                ours.send_bytes_async(&vec![7; len]).await.unwrap();
                assert!(ours.recv_bytes_async().await.unwrap() == vec![7; 2 * len]);
            }
            drop(ours);
            child.await.unwrap();
        });
    }

    fn bytes_killed_sender_disconnects(method) not_fork {
        on_each(|| async {
            let (sender, receiver) = one_way::<()>().unwrap();
            let (full, theirs) = one_way::<()>().unwrap();
            let child = Ends(Process::new(hold, ((sender, theirs),)).start_method(method).start().unwrap());
            let mut receiving = pin!(receiver.recv_bytes_async());
            poll_pending(receiving.as_mut()).await;
            while full.try_send_bytes(&[7; 30_000]).is_ok() {}
            let mut sending = pin!(full.send_bytes_async(&[7; 30_000]));
            poll_pending(sending.as_mut()).await;
            let mut by_file = pin!(full.send_bytes_async(&[7; 100_000]));
            poll_pending(by_file.as_mut()).await;
            assert_eq!(child.kill_async().await.unwrap().exit_code(), Some(-9));
            assert!(matches!(receiving.await.unwrap_err().kind(), RecvErrorKind::Disconnected));
            assert!(sending.await.unwrap_err().is_disconnected());
            assert!(by_file.await.unwrap_err().is_disconnected());
        });
    }
}

#[multiproc::test]
fn bytes_recv_wakes_sender() {
    on_each(|| async {
        let (sender, receiver) = one_way::<()>().unwrap();
        let (one, other) = over_tcp::<(), ()>().await;
        for (to, from) in [(&sender, &receiver), (one.sender(), other.receiver())] {
            let len = |index: usize| [100, 30_000, 200_000, 6_000_000][index % 4];
            let send = async {
                for index in 0..60 {
                    to.send_bytes_async(&vec![index as u8; len(index)]).await.unwrap();
                }
            };
            let receive = async {
                for index in 0..60 {
                    assert!(from.recv_bytes_async().await.unwrap() == vec![index as u8; len(index)]);
                }
            };
            join(send, receive).await;
        }
    });
}

#[multiproc::test]
fn bytes_dropped_future() {
    on_each(|| async {
        let (sender, receiver) = one_way::<()>().unwrap();
        for number in 0..20 {
            {
                let mut receiving = pin!(receiver.recv_bytes_async());
                poll_pending(receiving.as_mut()).await;
                sender.send_bytes(&[number]).unwrap();
            }
            assert_eq!(receiver.recv_bytes_async().await.unwrap(), [number]);
        }
        let mut sent = 0;
        while sender.try_send_bytes(&[7; 30_000]).is_ok() {
            sent += 1;
        }
        poll_pending(pin!(sender.send_bytes_async(&[8; 30_000]))).await;
        for _ in 0..sent {
            assert_eq!(receiver.recv_bytes_async().await.unwrap()[0], 7);
        }
        assert!(receiver.try_recv_bytes().unwrap_err().is_empty(), "an unsent message arrived");
        // A value is not bytes.
        sender.send(()).unwrap();
        assert!(matches!(receiver.recv_bytes_async().await.unwrap_err().kind(), RecvErrorKind::Decode(_)));
    });
}

#[multiproc::test]
fn mpmc() {
    on_each(|| async {
        let (sender, receiver) = one_way::<u64>().unwrap();
        let receivers: Vec<_> = (0..10).map(|_| receiver.clone()).collect();
        let sum = join_all(receivers.iter().map(|receiver| async {
            let mut sum = 0;
            for _ in 0..20 {
                sum += receiver.recv_async().await.unwrap();
            }
            sum
        }));
        let send = async {
            for number in 0..200 {
                sender.send_async(number).await.unwrap();
            }
        };
        let (sums, ()) = join(sum, send).await;
        assert_eq!(sums.into_iter().sum::<u64>(), (0..200).sum::<u64>());
    });
}

#[multiproc::test]
fn accept() {
    on_each(|| async {
        for at in [Address::unique(), ([127, 0, 0, 1], 0).into()] {
            let listener = Listener::bind(at, key()).unwrap();
            let clients: Vec<_> = (0..10_u32)
                .map(|number| {
                    let address = listener.local_address().clone();
                    std::thread::spawn(move || {
                        let connection = connect::<u32, u32>(address, key()).unwrap();
                        connection.send(number).unwrap();
                        assert_eq!(connection.recv().unwrap(), number + 1);
                    })
                })
                .collect();
            let acceptors = [listener.clone(), listener.clone()];
            let accepted = join_all(acceptors.iter().map(|listener| async {
                for _ in 0..5 {
                    let connection = listener.accept_async::<u32, u32>().await.unwrap();
                    let number = connection.recv_async().await.unwrap();
                    connection.send_async(number + 1).await.unwrap();
                }
            }));
            accepted.await;
            clients.into_iter().for_each(|client| client.join().unwrap());
            // A dropped future has accepted no client.
            let address = listener.local_address().clone();
            let client = {
                let mut accepting = pin!(listener.accept_async::<u32, u32>());
                poll_pending(accepting.as_mut()).await;
                std::thread::spawn(move || connect::<u32, u32>(address, key()).unwrap().recv().unwrap())
            };
            listener.accept_async::<u32, u32>().await.unwrap().send_async(9).await.unwrap();
            assert_eq!(client.join().unwrap(), 9);
        }
    });
}

/// Even if nothing else happens.
#[multiproc::test]
fn silent_client() {
    on_each(|| async {
        let mut listener = Listener::bind(([127, 0, 0, 1], 0), key()).unwrap();
        listener.set_handshake_timeout(Duration::from_millis(50));
        let Address::Tcp(address) = *listener.local_address() else { unreachable!("it is TCP") };
        let (closed, wait_closed) = oneshot::channel();
        std::thread::spawn(move || {
            let mut silent = std::net::TcpStream::connect(address).unwrap();
            let _ = std::io::Read::read(&mut silent, &mut [0]);
            closed.send(()).unwrap();
        });
        match select(pin!(listener.accept_async::<u8, u8>()), wait_closed).await {
            Either::Left(_) => panic!("no client has proved anything"),
            Either::Right((result, _)) => result.unwrap(),
        }
        assert_eq!(listener.take_refused()[0].reason(), RefusalReason::Timeout);
    });
}
