package passwords

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// LoginBurst is the number of logins that may fail for one account from one address before
// each further one has to wait for LoginInterval, and AddressBurst how many from
// one address for all accounts.
const (
	LoginBurst    = 10
	AddressBurst  = 100
	LoginInterval = 10 * time.Second
)

// ConcurrentHashes bounds the memory that passwords take, see Hasher.
const ConcurrentHashes = 4

// Failures describes where failed logins are kept, for all instances of a component. Kept
// is one in a database.
type Failures interface {
	// FailedLogins returns when the logins that failed for a name no longer count;
	// zero: none has failed.
	FailedLogins(ctx context.Context, name string) (forgotten time.Time, err error)
	// LoginFailed counts one more.
	LoginFailed(ctx context.Context, name string, interval time.Duration) error
	// LoginSucceeded forgets what failed before.
	LoginSucceeded(ctx context.Context, name string) error
}

// Guard checks passwords, and slows down who guesses.
type Guard struct {
	Hasher *Hasher
	Logins *Limiter
}

// Check reports whether a login succeeds, or how long it has to wait after others
// that have failed at any instance. hash is the account's, "" if there is no such
// account; address is the client's. A login that succeeds when none has failed
// writes nothing.
func (g Guard) Check(ctx context.Context, kept Failures, email, address, hash, password string) (ok bool, wait time.Duration, err error) {
	return g.Try(ctx, kept, email, address, func() (bool, error) { return g.Hasher.Check(ctx, hash, password) })
}

// Try is Check for whatever a caller proves itself with: check reports whether the
// proof is good.
//
// Failures count for the name and the client's address together, so that a stranger
// cannot lock the owner out, and for the address alone, so that nobody tries many
// names.
func (g Guard) Try(ctx context.Context, kept Failures, name, address string, check func() (bool, error)) (ok bool, wait time.Duration, err error) {
	counts := []struct {
		name  string
		burst int
	}{{name + " " + address, LoginBurst}, {address, AddressBurst}}
	failed := false // before
	for _, c := range counts {
		n := g.Logins.Begin(c.name)
		defer g.Logins.End(c.name)
		forgotten, err := kept.FailedLogins(ctx, c.name)
		if err != nil {
			return false, 0, err
		}
		if wait := g.Logins.Wait(n, c.burst, forgotten, time.Now()); wait > 0 {
			return false, wait, nil
		}
		failed = failed || !forgotten.IsZero()
	}
	ok, err = check()
	switch {
	case err != nil:
		return false, 0, err
	case ok && failed:
		err = kept.LoginSucceeded(ctx, counts[0].name)
	case !ok:
		for _, c := range counts {
			err = errors.Join(err, kept.LoginFailed(ctx, c.name, g.Logins.Interval))
		}
	}
	return ok, 0, err
}

// PossibleEmail reports whether a text may name an account. Databases take no other
// text, and it bounds what is remembered of failed logins.
func PossibleEmail(email string) bool {
	return len(email) <= 254 && utf8.ValidString(email) && !strings.ContainsRune(email, 0)
}

// ValidEmail reports whether an account may have this name.
func ValidEmail(email string) bool {
	if len(email) > 254 {
		return false
	}
	address, err := mail.ParseAddress(email)
	return err == nil && address.Address == email
}

// NewEmail reports whether a new account may have this name: of two names that look
// alike, or are the same in lower case though they are not, one would pass for the
// other. Accounts of earlier versions may have other names.
func NewEmail(email string) bool {
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"/\?#%<>(),:;`, r) }
	return !strings.ContainsFunc(email, odd) && ValidEmail(email)
}

// ClientAddress returns where a request comes from: what X-Real-Ip says if believed
// says that its peer may say so, else the peer's own address. An IPv6 client has a
// whole network of 64 bits.
func ClientAddress(r *http.Request, believed func(peer string) bool) string {
	text, _, _ := net.SplitHostPort(r.RemoteAddr)
	if claimed := r.Header.Get("X-Real-Ip"); claimed != "" && believed(text) {
		text = claimed
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return "unknown"
	}
	if address = address.Unmap(); address.Is6() {
		return netip.PrefixFrom(address, 64).Masked().String()
	}
	return address.String()
}

// Limiter bounds how often something may fail: burst times at once, then once
// per interval, for each name. What has failed is kept where all controllers see
// it, as the time when it is forgotten, which each failure puts off by an interval.
// Attempts under way, each of which may become a failure, are counted here: whoever
// makes many at once has no more of them.
type Limiter struct {
	Interval time.Duration

	mu       sync.Mutex
	underWay map[string]int
}

// NewLimiter returns a Limiter without attempts under way.
func NewLimiter(interval time.Duration) *Limiter {
	return &Limiter{Interval: interval, underWay: map[string]int{}}
}

// Begin begins an attempt, before it is read what has failed, and says the how
// manieth under way it is. End follows when its failure is kept, or it has none.
func (l *Limiter) Begin(name string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay[name]++
	return l.underWay[name]
}

// End ends an attempt.
func (l *Limiter) End(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underWay[name]--; l.underWay[name] == 0 {
		delete(l.underWay, name)
	}
}

// Wait says how long the nth attempt under way has to wait, 0: it may go on.
func (l *Limiter) Wait(n, burst int, forgotten, now time.Time) time.Duration {
	failed := max(0, forgotten.Sub(now)) + time.Duration(n-1)*l.Interval
	return max(0, failed-time.Duration(burst-1)*l.Interval)
}
