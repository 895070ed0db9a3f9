//! The data: books and orders, the same every time.

use serde::{Deserialize, Serialize};

/// A book.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// Its number.
    pub id: u32,
    /// Its title.
    pub title: String,
    /// Who wrote it.
    pub author: String,
    /// Price in cents.
    pub cents: u32,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its number.
    pub id: u32,
    /// The book ordered.
    pub book: u32,
    /// How many.
    pub copies: u32,
}

/// All books.
pub fn books() -> Vec<Book> {
    [
        (1, "The Count of Monte Cristo", "Alexandre Dumas", 1290),
        (2, "Middlemarch", "George Eliot", 1150),
        (3, "Moby-Dick", "Herman Melville", 1090),
        (4, "The Woman in White", "Wilkie Collins", 990),
    ]
    .into_iter()
    .map(|(id, title, author, cents)| Book { id, title: title.into(), author: author.into(), cents })
    .collect()
}

/// All orders.
pub fn orders() -> Vec<Order> {
    [(17, 2, 1), (18, 1, 2), (19, 3, 1)].into_iter().map(|(id, book, copies)| Order { id, book, copies }).collect()
}
