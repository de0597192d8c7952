package wire

// What the cloud controllers ask of the user component, at its internal port, with the
// secret that both have as the password of basic authentication. Answers are a
// UAAAccount or a list of them; 404: there is no such account.
const (
	// UAACheck takes a UAALogin. 403: the password is wrong or there is no such account;
	// 429: too many were tried, Retry-After says how long to wait.
	UAACheck = "/internal/check"
	// UAAAccounts lists all accounts with their hashes (GET, UAAPage of them after the
	// e-mail address "after"), takes a list over (POST), or, with an address behind it,
	// tells one (GET, without its hash), sets its password (PUT, a UAAPassword) or
	// deletes it (DELETE).
	UAAAccounts = "/internal/accounts"
	UAAPage     = 500
)

// UAALogin asks whether a password is right.
type UAALogin struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Address  string `json:"address"` // the user's, by which guesses are counted
}

// UAAPassword sets a password. New: 409 if the account exists.
type UAAPassword struct {
	Password string `json:"password"`
	New      bool   `json:"new"`
}

// UAAAccount is an account. Stamp changes with the password and does not help to guess
// it; Hash is there only where accounts move.
type UAAAccount struct {
	Email string `json:"email"`
	Hash  string `json:"hash,omitempty"`
	Stamp string `json:"stamp,omitempty"`
}
