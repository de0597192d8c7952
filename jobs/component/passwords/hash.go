package passwords

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
)

// Cost describes what a hash takes. Raising it concerns new hashes only, since each says
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

// queuePerSlot is the number of requests that may wait for each password that is hashed at a time.
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
