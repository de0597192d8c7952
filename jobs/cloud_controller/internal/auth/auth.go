// Package auth hashes passwords, signs tokens and slows down who guesses.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
)

// Cost is what a hash takes. Raising it concerns new hashes only, since each says
// its own.
type Cost struct {
	Passes uint32
	Memory uint32 // KiB
}

// Recommended is OWASP's for argon2id: 19 MiB and two passes.
var Recommended = Cost{Passes: 2, Memory: 19 << 10}

const (
	argonLanes = 1
	argonKey   = 32
	argonSalt  = 16
)

// maxPassword bounds what is hashed.
const maxPassword = 1024

// ErrPassword refuses a password that nobody may have.
var ErrPassword = fmt.Errorf("a password has between 1 and %d bytes", maxPassword)

var encoding = base64.RawStdEncoding

// Hasher hashes passwords, a few at a time, so that many logins at once take
// neither all memory nor all processors.
type Hasher struct {
	slots   chan struct{}
	waiting atomic.Int64 // and those in slots
	cost    Cost         // of new hashes
}

// queuePerSlot is how many may wait for each password that is hashed at a time.
const queuePerSlot = 4

// ErrBusy refuses to hash a password because too many wait already.
var ErrBusy = errors.New("too many passwords are checked at once")

// NewHasher hashes up to n passwords at once.
func NewHasher(n int, cost Cost) *Hasher {
	return &Hasher{slots: make(chan struct{}, n), cost: cost}
}

func (h *Hasher) argon(ctx context.Context, password string, salt []byte, passes, memory uint32, lanes uint8, length uint32) ([]byte, error) {
	if h.waiting.Add(1) > int64(cap(h.slots)*(1+queuePerSlot)) {
		h.waiting.Add(-1)
		return nil, ErrBusy
	}
	defer h.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot hash a password: %w", context.Cause(ctx))
	}
	return argon2.IDKey([]byte(password), salt, passes, memory, lanes, length), nil
}

// Hash makes a hash in the usual text form, $argon2id$v=19$m=...,t=...,p=...$salt$hash.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if password == "" || len(password) > maxPassword {
		return "", ErrPassword
	}
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails
	key, err := h.argon(ctx, password, salt, h.cost.Passes, h.cost.Memory, argonLanes, argonKey)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.cost.Memory, h.cost.Passes, argonLanes,
		encoding.EncodeToString(salt), encoding.EncodeToString(key)), nil
}

// Check says whether the password is the one that was hashed. An empty hash, as
// of a user that does not exist, takes as long and matches nothing.
func (h *Hasher) Check(ctx context.Context, hash, password string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	if hash == "" {
		_, err := h.argon(ctx, password, make([]byte, argonSalt), h.cost.Passes, h.cost.Memory, argonLanes, argonKey)
		return false, err
	}
	var version int
	var memory, passes uint32
	var lanes uint8
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("cannot read a password hash: it is not argon2id")
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &passes, &lanes); err != nil || version != argon2.Version || passes < 1 || lanes < 1 {
		return false, errors.New("cannot read a password hash: its parameters are unknown")
	}
	salt, err1 := encoding.DecodeString(parts[4])
	want, err2 := encoding.DecodeString(parts[5])
	if err := errors.Join(err1, err2); err != nil || len(want) == 0 {
		return false, errors.New("cannot read a password hash: its salt or key is damaged")
	}
	have, err := h.argon(ctx, password, salt, passes, memory, lanes, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(have, want) == 1, nil
}

// ErrToken refuses a token; why is nobody's business.
var ErrToken = errors.New("the token is not valid")

// Signer makes and checks tokens. Controllers with the same key know each
// other's tokens.
type Signer struct{ key []byte }

// NewSigner signs with a secret.
func NewSigner(key string) Signer { return Signer{key: []byte(key)} }

// Sign makes a token for a user until a time. It holds as long as the password
// hash is the same: a new password ends all tokens.
func (s Signer) Sign(email, passwordHash string, until time.Time) string {
	payload := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	payload = append(payload, email...)
	return base64.RawURLEncoding.EncodeToString(append(payload, s.mac(payload, passwordHash)...))
}

// Owner is who a token says it is for. It is not checked yet.
func (s Signer) Owner(token string) (email string, err error) {
	payload, _, err := split(token)
	if err != nil {
		return "", err
	}
	return string(payload[8:]), nil
}

// Check says whether a token is valid for its owner, whose present password hash
// is given.
func (s Signer) Check(token, passwordHash string, now time.Time) error {
	payload, mac, err := split(token)
	if err != nil {
		return err
	}
	if !hmac.Equal(mac, s.mac(payload, passwordHash)) || uint64(now.Unix()) >= binary.BigEndian.Uint64(payload) {
		return ErrToken
	}
	return nil
}

// SignPath returns a path of a URL with a query that opens it until a time.
func (s Signer) SignPath(path string, until time.Time) string {
	expires := strconv.FormatInt(until.Unix(), 10)
	return path + "?" + url.Values{"expires": {expires}, "signature": {hex.EncodeToString(s.mac([]byte(expires), path))}}.Encode()
}

// OpensPath reports whether a query opens a path.
func (s Signer) OpensPath(path string, query url.Values, now time.Time) bool {
	expires := query.Get("expires")
	until, err := strconv.ParseInt(expires, 10, 64)
	signature, err2 := hex.DecodeString(query.Get("signature"))
	return err == nil && err2 == nil && hmac.Equal(signature, s.mac([]byte(expires), path)) && now.Unix() < until
}

func split(token string) (payload, mac []byte, err error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(data) < 8+sha256.Size {
		return nil, nil, ErrToken
	}
	n := len(data) - sha256.Size
	return data[:n], data[n:], nil
}

func (s Signer) mac(payload []byte, passwordHash string) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(payload))))
	mac.Write(payload)
	mac.Write([]byte(passwordHash))
	return mac.Sum(nil)
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
