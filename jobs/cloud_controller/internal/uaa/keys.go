package uaa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Scope is the scope that a token must have to be taken by a controller; it is its audience, too.
const Scope = "cloud_controller"

// ErrToken refuses a token; why is nobody's business.
var ErrToken = errors.New("the token is not valid")

const (
	// refetchAfter says how old keys may get before they are fetched again, and keysLast
	// how old if they cannot be: after that no token is taken.
	refetchAfter = 5 * time.Minute
	keysLast     = time.Hour
	// fetchPause is between two attempts: tokens of keys that nobody knows cause no more.
	fetchPause = 5 * time.Second
	maxKeys    = 16
	maxToken   = 8 << 10
)

// Claims describe what a token says.
type Claims struct {
	Issuer   string   `json:"iss"`
	Audience audience `json:"aud"`
	Expires  int64    `json:"exp"`
	Email    string   `json:"user_name"`
	Scope    string   `json:"scope"`
	Stamp    string   `json:"stamp"`
}

// audience is one or several.
type audience []string

// UnmarshalJSON takes a string or a list of them.
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// IsToken reports whether a text looks like a token of the user component, with or
// without its scheme; bare is it without.
func IsToken(text string) (bare string, is bool) {
	if scheme, rest, found := strings.Cut(text, " "); found && strings.EqualFold(scheme, "bearer") {
		text = rest
	}
	return text, strings.Count(text, ".") == 2
}

// Verify returns what a token says that the user component signed for controllers and
// that is valid now. ErrToken: it is none; ErrAway: that cannot be known.
func (c *Client) Verify(ctx context.Context, token string, now time.Time) (Claims, error) {
	if len(token) > maxToken {
		return Claims{}, ErrToken
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(signed.Signatures) != 1 {
		return Claims{}, ErrToken
	}
	key, err := c.keys.find(ctx, signed.Signatures[0].Header.KeyID, now)
	if err != nil {
		return Claims{}, err
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return Claims{}, ErrToken
	}
	var claims Claims
	if json.Unmarshal(payload, &claims) != nil || claims.Issuer != c.settings().URL || !slices.Contains(claims.Audience, Scope) ||
		!slices.Contains(strings.Fields(claims.Scope), Scope) || now.Unix() >= claims.Expires || claims.Email == "" || claims.Stamp == "" {
		return Claims{}, ErrToken
	}
	return claims, nil
}

// keys are the published keys of the user component.
type keys struct {
	fetch func(ctx context.Context) ([]byte, error)

	mu      sync.Mutex
	known   jose.JSONWebKeySet
	fetched time.Time // when known was
	tried   time.Time
	failed  error // of the last attempt
}

// find returns the key with an id. Keys are fetched when they are old, and when one is
// not known, but not again at once.
func (k *keys) find(ctx context.Context, id string, now time.Time) (jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	matching := k.known.Key(id)
	if (len(matching) != 1 || now.Sub(k.fetched) >= refetchAfter) && (k.tried.IsZero() || now.Sub(k.tried) >= fetchPause) {
		k.tried = now
		if k.failed = k.update(ctx, now); k.failed == nil {
			matching = k.known.Key(id)
		}
	}
	switch {
	case now.Sub(k.fetched) >= keysLast && k.failed != nil:
		return jose.JSONWebKey{}, k.failed
	case now.Sub(k.fetched) >= keysLast || id == "" || len(matching) != 1:
		return jose.JSONWebKey{}, ErrToken
	}
	return matching[0], nil
}

func (k *keys) update(ctx context.Context, now time.Time) error {
	// Whoever asked first may hang up; the others want the keys, too.
	body, err := k.fetch(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil || len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return fmt.Errorf("%w for its keys: the answer has none, or too many", ErrAway)
	}
	for _, key := range set.Keys {
		if !key.IsPublic() || !key.Valid() || key.Algorithm != string(jose.RS256) {
			return fmt.Errorf("%w for its keys: one is none to verify with", ErrAway)
		}
	}
	k.known, k.fetched = set, now
	return nil
}
