//! What the shop sells. The prices show what the bank makes of them.

/// A product.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Its id.
    pub id: &'static str,
    /// Its price.
    pub cents: i64,
    /// The first delivery.
    pub pieces: i64,
}

/// All products.
pub const PRODUCTS: [Product; 5] = [
    Product { id: "prod-123", cents: 1_999, pieces: 1_000_000 },
    Product { id: "prod-456", cents: 500, pieces: 1_000_000 },
    // The bank refuses it.
    Product { id: "prod-refused", cents: 9_913, pieces: 1_000 },
    // The bank answers after 30 seconds.
    Product { id: "prod-late", cents: 1_066, pieces: 1_000 },
    Product { id: "prod-scarce", cents: 2_500, pieces: 10 },
];

/// Returns the product with this id.
pub fn product(id: &str) -> Option<&'static Product> {
    PRODUCTS.iter().find(|product| product.id == id)
}
