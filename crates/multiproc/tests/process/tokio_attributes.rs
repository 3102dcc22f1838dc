//! Together with another runtime's attributes, in either order.

use multiproc::Process;

#[multiproc::test]
#[tokio::test]
async fn multiproc_first() {
    both().await;
}

#[tokio::test(flavor = "multi_thread")]
#[multiproc::test]
async fn tokio_first() {
    both().await;
}

async fn both() {
    let child = Process::new(|a: u32| a + 1, (1,)).start().unwrap();
    let value = tokio::task::spawn_blocking(move || child.join().unwrap()).await.unwrap();
    assert_eq!(value, 2);
}
