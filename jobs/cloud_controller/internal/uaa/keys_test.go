package uaa

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
)

var begin = time.Unix(1343815200, 0)

// issuer signs tokens, as the user component does.
type issuer struct {
	key     *rsa.PrivateKey
	id      string
	away    bool
	fetches int
	answer  []byte // nil: the key
}

func newIssuer(t *testing.T, id string) *issuer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{key: key, id: id}
}

func (i *issuer) fetch(context.Context) ([]byte, error) {
	i.fetches++
	if i.away {
		return nil, ErrAway
	}
	if i.answer != nil {
		return i.answer, nil
	}
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &i.key.PublicKey, KeyID: i.id, Algorithm: "RS256", Use: "sig"}}})
}

func (i *issuer) client() *Client {
	c := &Client{settings: func() config.UAA { return config.UAA{URL: "https://uaa.example"} }}
	c.keys.fetch = i.fetch
	return c
}

func (i *issuer) claims() map[string]any {
	return map[string]any{"iss": "https://uaa.example", "aud": []string{"vmc", Scope}, "exp": begin.Add(24 * time.Hour).Unix(), "user_name": "dev@example.com", "scope": "openid " + Scope, "stamp": "s"}
}

func (i *issuer) sign(t *testing.T, key jose.SigningKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (i *issuer) own() jose.SigningKey {
	return jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.id}}
}

// TestForeignTokensAreRefused is a table of attacks on the verification.
func TestForeignTokensAreRefused(t *testing.T) {
	t.Parallel()
	i, other := newIssuer(t, "k1"), newIssuer(t, "k1")
	c := i.client()
	good := i.sign(t, i.own(), i.claims())
	if claims, err := c.Verify(t.Context(), good, begin); err != nil || claims.Email != "dev@example.com" || claims.Stamp != "s" {
		t.Fatalf("%+v, %v", claims, err)
	}
	with := func(name string, value any) string {
		claims := i.claims()
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
		return i.sign(t, i.own(), claims)
	}
	public, err := json.Marshal(jose.JSONWebKey{Key: &i.key.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"nothing":                  "",
		"nonsense":                 "a.b.c",
		"without a signature":      "eyJhbGciOiJub25lIn0.e30.",
		"another's key":            other.sign(t, other.own(), i.claims()),
		"the public key as secret": i.sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: public, KeyID: "k1"}}, i.claims()),
		"another algorithm":        i.sign(t, jose.SigningKey{Algorithm: jose.PS256, Key: jose.JSONWebKey{Key: i.key, KeyID: "k1"}}, i.claims()),
		"no key id":                i.sign(t, jose.SigningKey{Algorithm: jose.RS256, Key: i.key}, i.claims()),
		"another issuer":           with("iss", "https://evil.example"),
		"for another":              with("aud", []string{"vmc"}),
		"for another only":         with("aud", "vmc"),
		"without the scope":        with("scope", "openid"),
		"a scope that begins so":   with("scope", Scope+".read"),
		"an ID token":              with("scope", nil),
		"without a stamp":          with("stamp", nil),
		"without a user":           with("user_name", nil),
		"expired":                  with("exp", begin.Unix()),
		"without an end":           with("exp", nil),
		"an end that is a text":    with("exp", "never"),
		"tampered with":            good[:len(good)-6] + "AAAAAA",
		"too long":                 good + string(make([]byte, maxToken)),
	} {
		if claims, err := c.Verify(t.Context(), token, begin); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %+v, %v", name, claims, err)
		}
	}
}

// TestKeysAreFetchedWithinBounds: unknown keys cause no storm, a new key is found, and
// without the user component keys hold for an hour and no longer.
func TestKeysAreFetchedWithinBounds(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, "k1")
	c := i.client()
	i.away = true
	token := i.sign(t, i.own(), i.claims())
	try := func(after time.Duration, token string, want error) {
		t.Helper()
		if _, err := c.Verify(t.Context(), token, begin.Add(after)); !errors.Is(err, want) {
			t.Errorf("after %v: %v, want %v", after, err, want)
		}
	}
	try(0, token, ErrAway)
	i.away = false
	try(time.Second, token, ErrAway) // not again at once
	if i.fetches != 1 {
		t.Errorf("%d fetches", i.fetches)
	}
	try(fetchPause, token, nil)
	next := newIssuer(t, "k2")
	foreign := next.sign(t, next.own(), i.claims())
	for range 100 {
		try(fetchPause+time.Second, foreign, ErrToken)
	}
	try(2*fetchPause, foreign, ErrToken)
	if i.fetches != 3 {
		t.Errorf("%d fetches for keys that nobody has", i.fetches)
	}
	i.key, i.id = next.key, next.id // it has rotated
	try(3*fetchPause, foreign, nil)

	i.away = true
	try(30*time.Minute, foreign, nil)
	try(time.Hour+3*fetchPause-time.Second, foreign, nil)
	try(time.Hour+3*fetchPause+time.Second, foreign, ErrAway)
	i.away = false
	for _, bad := range []string{"nonsense", `{"keys": []}`, `{"keys": [{"kty": "oct", "k": "AAAA", "kid": "k2", "alg": "RS256"}]}`} {
		i.answer = []byte(bad)
		try(2*time.Hour, foreign, ErrAway)
		c.keys.tried = time.Time{}
	}
	i.answer = nil
	try(2*time.Hour, foreign, nil)
}

func FuzzToken(f *testing.F) {
	c := &Client{settings: func() config.UAA { return config.UAA{URL: "https://uaa.example"} }}
	c.keys.fetch = func(context.Context) ([]byte, error) { return nil, ErrAway }
	f.Add("bearer a.b.c")
	f.Add("eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.e30.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if bare, is := IsToken(text); is {
			if claims, err := c.Verify(t.Context(), bare, begin); err == nil {
				t.Errorf("%q is taken: %+v", text, claims)
			}
		}
	})
}
