package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
)

// Key signs tokens with RS256, which every client of OpenID Connect knows.
type Key struct {
	ID      string
	Private *rsa.PrivateKey
}

// bits of a key, as NIST recommends them until 2030.
const bits = 2048

// Database describes where the keys of all instances are.
type Database interface {
	Keys(ctx context.Context) ([]store.Key, error)
	AddKey(ctx context.Context, k store.Key) error
	DropKey(ctx context.Context, generation int64) error
}

// Ring has the keys of all instances of the user component.
type Ring struct {
	db    Database
	log   *slog.Logger
	rules func() Rules
	seal  cipher.AEAD
	now   func() time.Time

	turn   sync.Mutex      // one Refresh at a time
	warned map[string]bool // keys that cannot be read; with turn held

	mu   sync.Mutex
	keys []Key // the last signs
}

// New returns a ring without keys; Refresh reads or makes them. secret encrypts them in
// the database.
func New(db Database, log *slog.Logger, rules func() Rules, secret string) *Ring {
	key := sha256.Sum256([]byte("signing keys of uaa\x00" + secret))
	block, _ := aes.NewCipher(key[:]) // the length is right
	seal, _ := cipher.NewGCM(block)
	return &Ring{db: db, log: log, rules: rules, seal: seal, now: time.Now, warned: map[string]bool{}}
}

// Keys returns the keys with which valid tokens may have been signed, the last of which
// signs; empty before the first Refresh.
func (r *Ring) Keys() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys
}

// Signing returns the key that signs.
func (r *Ring) Signing() (Key, error) {
	keys := r.Keys()
	if len(keys) == 0 {
		return Key{}, errors.New("there is no signing key yet")
	}
	return keys[len(keys)-1], nil
}

// Refresh makes a new key if it is time, drops those that are no longer needed, and
// takes what other instances have done. Keys that another secret encrypted are as good
// as none: nobody has the private part.
func (r *Ring) Refresh(ctx context.Context) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	rows, err := r.db.Keys(ctx)
	if err != nil {
		return err
	}
	keys, facts := r.open(rows)
	plan := Decide(facts, r.rules(), r.now())
	if plan.New {
		var next int64 = 1
		if len(rows) > 0 {
			next = rows[len(rows)-1].Generation + 1
		}
		if err := r.make(ctx, next); err != nil {
			return err
		}
		if rows, err = r.db.Keys(ctx); err != nil {
			return err
		}
		if keys, _ = r.open(rows); len(keys) == 0 {
			return errors.New("cannot use the signing keys of another instance: it has another secret")
		}
	}
	for _, generation := range plan.Drop {
		if err := r.db.DropKey(ctx, generation); err != nil {
			return err
		}
		r.log.Info("a signing key is no longer needed", "generation", generation)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = keys
	return nil
}

// make makes the key of a generation, unless another instance is faster.
func (r *Ring) make(ctx context.Context, generation int64) error {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return fmt.Errorf("cannot make a signing key: %w", err)
	}
	id := rand.Text()
	nonce := make([]byte, r.seal.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	sealed := r.seal.Seal(nonce, nonce, x509.MarshalPKCS1PrivateKey(private), []byte(id))
	row := store.Key{Generation: generation, ID: id, Sealed: base64.StdEncoding.EncodeToString(sealed), Epoch: r.rules().Epoch, Created: r.now()}
	switch err := r.db.AddKey(ctx, row); {
	case errors.Is(err, store.ErrExists):
		return nil
	case err != nil:
		return err
	}
	r.log.Info("a new signing key", "id", id, "generation", generation)
	return nil
}

func (r *Ring) open(rows []store.Key) (keys []Key, facts []Fact) {
	for _, row := range rows {
		sealed, err := base64.StdEncoding.DecodeString(row.Sealed)
		n := r.seal.NonceSize()
		var private *rsa.PrivateKey
		if err == nil && len(sealed) > n {
			var plain []byte
			if plain, err = r.seal.Open(nil, sealed[:n], sealed[n:], []byte(row.ID)); err == nil {
				private, err = x509.ParsePKCS1PrivateKey(plain)
			}
		}
		if err != nil || private == nil {
			if !r.warned[row.ID] {
				r.log.Warn("cannot read a signing key: another secret encrypted it", "id", row.ID, "generation", row.Generation)
			}
			r.warned[row.ID] = true
			continue
		}
		keys = append(keys, Key{ID: row.ID, Private: private})
		facts = append(facts, Fact{Generation: row.Generation, Epoch: row.Epoch, Created: row.Created})
	}
	return keys, facts
}
