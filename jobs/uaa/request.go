package uaa

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// loginTime is the time that a login page may stand open, and codeTime how long a client has
// to fetch its tokens.
const (
	loginTime = 10 * time.Minute
	codeTime  = time.Minute
)

// request describes what a client asks for with the authorization code flow. Until the user has
// logged in, only the browser knows it, sealed: nobody can fill a table of ours. It
// implements op.AuthRequest.
type request struct {
	ID        string    `json:"-"` // sealed, before the login
	Client    string    `json:"client"`
	Redirect  string    `json:"redirect"`
	State     string    `json:"state"`
	Nonce     string    `json:"nonce"`
	Scopes    []string  `json:"scopes"`
	Challenge string    `json:"challenge"` // S256; "": a client with a secret and without PKCE
	Hint      string    `json:"hint"`      // the user's e-mail address, as the client guesses it
	Browser   string    `json:"browser"`   // digest of the browser's cookie
	Expires   time.Time `json:"expires"`

	// Known after the login.
	Subject       string    `json:"subject"`
	Authenticated time.Time `json:"authenticated"`
	Family        string    `json:"family"`
	Stamp         string    `json:"stamp"` // of the password that was right
}

func (r *request) GetID() string                      { return r.ID }
func (r *request) GetACR() string                     { return "" }
func (r *request) GetAMR() []string                   { return []string{"pwd"} }
func (r *request) GetAudience() []string              { return audience(r.Client, r.Scopes) }
func (r *request) GetAuthTime() time.Time             { return r.Authenticated }
func (r *request) GetClientID() string                { return r.Client }
func (r *request) GetNonce() string                   { return r.Nonce }
func (r *request) GetRedirectURI() string             { return r.Redirect }
func (r *request) GetResponseType() oidc.ResponseType { return oidc.ResponseTypeCode }
func (r *request) GetResponseMode() oidc.ResponseMode { return oidc.ResponseModeQuery }
func (r *request) GetScopes() []string                { return r.Scopes }
func (r *request) GetState() string                   { return r.State }
func (r *request) GetSubject() string                 { return r.Subject }
func (r *request) Done() bool                         { return r.Subject != "" }

func (r *request) GetCodeChallenge() *oidc.CodeChallenge {
	if r.Challenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: r.Challenge, Method: oidc.CodeChallengeMethodS256}
}

// audience returns for whom a token is: the client, and the cloud controllers if it has
// their scope.
func audience(client string, scopes []string) []string {
	if slices.Contains(scopes, controllerScope) {
		return []string{client, controllerScope}
	}
	return []string{client}
}

// refreshRequest describes what a client asks for with a refresh token. It implements
// op.RefreshTokenRequest.
type refreshRequest struct {
	client, subject, family string
	scopes                  []string // of the login
	current                 []string // of the access token
	authenticated           time.Time
}

func (r *refreshRequest) GetAMR() []string                 { return []string{"pwd"} }
func (r *refreshRequest) GetAudience() []string            { return audience(r.client, r.GetScopes()) }
func (r *refreshRequest) GetAuthTime() time.Time           { return r.authenticated }
func (r *refreshRequest) GetClientID() string              { return r.client }
func (r *refreshRequest) GetSubject() string               { return r.subject }
func (r *refreshRequest) SetCurrentScopes(scopes []string) { r.current = scopes }
func (r *refreshRequest) GetScopes() []string {
	if r.current != nil {
		return r.current
	}
	return r.scopes
}

// clientRequest describes what a client asks for in its own name. It implements
// op.TokenRequest.
type clientRequest struct {
	client string
	scopes []string
}

func (r *clientRequest) GetSubject() string    { return r.client }
func (r *clientRequest) GetAudience() []string { return []string{r.client} }
func (r *clientRequest) GetScopes() []string   { return r.scopes }

// errSealed refuses what no instance sealed, or too long ago.
var errSealed = errors.New("the login was begun too long ago or somewhere else")

// sealer hides requests in what browsers carry.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret string) sealer {
	key := sha256.Sum256([]byte(secret))
	block, _ := aes.NewCipher(key[:]) // the length is right
	aead, _ := cipher.NewGCM(block)
	return sealer{aead}
}

func (s sealer) seal(r *request) (string, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, plain, nil)), nil
}

func (s sealer) open(text string, now time.Time) (*request, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	n := s.aead.NonceSize()
	if err != nil || len(sealed) < n {
		return nil, errSealed
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], nil)
	if err != nil {
		return nil, errSealed
	}
	r := &request{ID: text}
	if err := json.Unmarshal(plain, r); err != nil || !now.Before(r.Expires) {
		return nil, errSealed
	}
	return r, nil
}

func splitScopes(text string) []string { return strings.Fields(text) }
