use super::*;

#[test]
fn the_excess_decides_how_much_is_left_out() {
    assert_eq!(share(10, 2000, 1000), 5);
    assert_eq!(share(10, 1001, 1000), 1);
    assert_eq!(share(3, 1000, 1000), 1);
    assert_eq!(share(2, 9000, 10), 1);
}
