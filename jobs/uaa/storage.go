package uaa

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
)

// storage describes what the OpenID library asks of us. It implements op.Storage and
// op.ClientCredentialsStorage, and decides what the library leaves open: which clients
// there are, that public ones need PKCE, that a code and a refresh token are used once.
type storage struct{ *parts }

// failed hides an error of ours from clients.
func (s storage) failed(what string, err error) *oidc.Error {
	s.log.Error("cannot answer", "what", what, "error", err)
	return oidc.ErrServerError().WithDescription("something is wrong here; try again later")
}

// most bounds what a client may have us carry.
const most = 2048

// CreateAuthRequest takes what a client asks for. The library has checked the redirect
// URI, and handler before it.
func (s storage) CreateAuthRequest(ctx context.Context, asked *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	c, found := s.settings().Clients[asked.ClientID]
	switch {
	case !found || !c.redirects(asked.RedirectURI):
		return nil, oidc.ErrInvalidRequestRedirectURI().WithDescription("the redirect_uri is not registered")
	case !slices.Contains(c.Grants, grantCode):
		return nil, oidc.ErrUnauthorizedClient().WithDescription("the client may not use the authorization code flow")
	case asked.ResponseMode != "" && asked.ResponseMode != oidc.ResponseModeQuery:
		return nil, oidc.ErrInvalidRequest().WithDescription("response_mode must be query")
	case len(asked.State) > most || len(asked.Nonce) > most || len(asked.LoginHint) > 254 || len(asked.CodeChallenge) > 128:
		return nil, oidc.ErrInvalidRequest().WithDescription("a parameter is too long")
	case asked.CodeChallenge != "" && (asked.CodeChallengeMethod != oidc.CodeChallengeMethodS256 || len(asked.CodeChallenge) != 43):
		return nil, oidc.ErrInvalidRequest().WithDescription("code_challenge_method must be S256")
	case asked.CodeChallenge == "" && c.Secret == "":
		return nil, oidc.ErrInvalidRequest().WithDescription("a public client must send a code_challenge")
	case slices.Contains(asked.Prompt, oidc.PromptNone):
		return nil, oidc.ErrLoginRequired().WithDescription("nobody is logged in without the login page")
	}
	r := &request{
		Client: asked.ClientID, Redirect: asked.RedirectURI, State: asked.State, Nonce: asked.Nonce, Scopes: asked.Scopes,
		Challenge: asked.CodeChallenge, Hint: asked.LoginHint, Browser: browserOf(ctx), Expires: time.Now().Add(loginTime),
	}
	var err error
	if r.ID, err = s.requests.seal(r); err != nil {
		return nil, s.failed("begin a login", err)
	}
	return r, nil
}

// AuthRequestByID is not asked: the library's way back from the login page is not served.
func (s storage) AuthRequestByID(context.Context, string) (op.AuthRequest, error) {
	return nil, errSealed
}

// AuthRequestByCode uses a code.
func (s storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	c, err := s.store.UseCode(ctx, code)
	switch {
	case errors.Is(err, store.ErrReused):
		s.log.Warn("a code is used again: its login is revoked", "account", c.AccountID)
		return nil, oidc.ErrInvalidGrant().WithDescription("the code is not valid")
	case errors.Is(err, store.ErrNotFound):
		return nil, oidc.ErrInvalidGrant().WithDescription("the code is not valid")
	case err != nil:
		return nil, s.failed("use a code", err)
	}
	r := &request{}
	if err := json.Unmarshal([]byte(c.Request), r); err != nil {
		return nil, s.failed("use a code", err)
	}
	return r, nil
}

// SaveAuthCode is not asked: the login page makes codes.
func (s storage) SaveAuthCode(context.Context, string, string) error { return errSealed }

// DeleteAuthRequest has nothing to do: using the code did it.
func (s storage) DeleteAuthRequest(context.Context, string) error { return nil }

// CreateAccessToken names an access token.
func (s storage) CreateAccessToken(context.Context, op.TokenRequest) (id string, expires time.Time, err error) {
	return rand.Text(), time.Now().Add(s.settings().AccessToken), nil
}

// CreateAccessAndRefreshTokens names an access token and makes a refresh token: the
// first of a login, or the next.
func (s storage) CreateAccessAndRefreshTokens(ctx context.Context, asked op.TokenRequest, current string) (id, refresh string, expires time.Time, err error) {
	settings, now := s.settings(), time.Now()
	id, refresh, expires = rand.Text(), rand.Text()+rand.Text(), now.Add(settings.AccessToken)
	row := store.Refresh{AccountID: asked.GetSubject(), Expires: now.Add(settings.RefreshToken)}
	switch r := asked.(type) {
	case *request:
		row.Family, row.ClientID, row.Scopes, row.Authenticated = r.Family, r.Client, strings.Join(r.Scopes, " "), r.Authenticated
		err = s.store.AddRefresh(ctx, refresh, row)
	case *refreshRequest:
		row.Family, row.ClientID, row.Scopes, row.Authenticated = r.family, r.client, strings.Join(r.scopes, " "), r.authenticated
		err = s.store.Rotate(ctx, current, refresh, row)
	default:
		err = errors.New("no refresh tokens for this")
	}
	if errors.Is(err, store.ErrReused) {
		s.log.Warn("a refresh token is used again: its login is revoked", "account", row.AccountID, "client", row.ClientID)
		return "", "", time.Time{}, oidc.ErrInvalidGrant().WithDescription("the login has ended; log in again")
	}
	if err != nil {
		return "", "", time.Time{}, s.failed("make a refresh token", err)
	}
	return id, refresh, expires, nil
}

// TokenRequestByRefreshToken finds what a refresh token stands for.
func (s storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	row, err := s.store.Refresh(ctx, token)
	switch {
	case errors.Is(err, store.ErrReused):
		s.log.Warn("a refresh token is used again: its login is revoked")
		fallthrough
	case errors.Is(err, store.ErrNotFound):
		return nil, oidc.ErrInvalidGrant().WithDescription("the login has ended; log in again")
	case err != nil:
		return nil, s.failed("use a refresh token", err)
	}
	return &refreshRequest{client: row.ClientID, subject: row.AccountID, family: row.Family, scopes: splitScopes(row.Scopes), authenticated: row.Authenticated}, nil
}

// TerminateSession is not asked: there are no sessions beside tokens.
func (s storage) TerminateSession(context.Context, string, string) error { return nil }

// GetRefreshTokenInfo tells a refresh token from an access token, for RevokeToken: what
// it returns as the id is the family.
func (s storage) GetRefreshTokenInfo(ctx context.Context, client, token string) (user, id string, err error) {
	row, err := s.store.Refresh(ctx, token)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrReused):
		return "", "", op.ErrInvalidRefreshToken
	case err != nil:
		return "", "", s.failed("revoke a token", err)
	case row.ClientID != client:
		return "", "", op.ErrInvalidRefreshToken // and not another's
	}
	return row.AccountID, "family " + row.Family, nil
}

// RevokeToken ends a login by its refresh token, or one access token, of the client that
// asks: it may hold another's.
func (s storage) RevokeToken(ctx context.Context, id, user, client string) *oidc.Error {
	var err error
	family, is := strings.CutPrefix(id, "family ")
	claims := claimsOf(ctx)
	switch {
	case is && user != "":
		err = s.store.RevokeFamily(ctx, family)
	case user != "" && (claims == nil || claims.ClientID != client):
		return oidc.ErrUnauthorizedClient().WithDescription("the token is another client's")
	case user != "": // an access token that we signed
		err = s.store.RevokeAccess(ctx, id, time.Now().Add(accessTokenMost))
	}
	if err != nil {
		return s.failed("revoke a token", err)
	}
	return nil // nor is it an error to revoke what is none, RFC 7009
}

// signingKey implements op.SigningKey, publicKey op.Key.
type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) ID() string                                  { return k.id }

type publicKey struct{ signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return oidc.KeyUseSignature }
func (k publicKey) Key() any                           { return &k.key.PublicKey }

// SigningKey returns the key that signs.
func (s storage) SigningKey(context.Context) (op.SigningKey, error) {
	k, err := s.keys.Signing()
	if err != nil {
		return nil, s.failed("sign a token", err)
	}
	return signingKey{k.ID, k.Private}, nil
}

// SignatureAlgorithms returns the only one.
func (s storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet returns the public keys of all tokens that may be valid.
func (s storage) KeySet(context.Context) ([]op.Key, error) {
	var set []op.Key
	for _, k := range s.keys.Keys() {
		set = append(set, publicKey{signingKey{k.ID, k.Private}})
	}
	return set, nil
}

// GetClientByClientID finds a client.
func (s storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, found := s.settings().Clients[id]
	if !found {
		return nil, oidc.ErrInvalidClient().WithDescription("there is no such client")
	}
	return client{id, c, s.settings()}, nil
}

// AuthorizeClientIDSecret checks a client's secret, and slows down who guesses.
func (s storage) AuthorizeClientIDSecret(ctx context.Context, id, secret string) error {
	c, found := s.settings().Clients[id]
	ok, wait, err := s.guard.Try(ctx, s.store.Logins(), "client "+id[:min(len(id), 64)], addressOf(ctx), func() (bool, error) {
		return found && c.Secret != "" && same(secret, c.Secret), nil
	})
	switch {
	case err != nil:
		return s.failed("check a client's secret", err)
	case wait > 0:
		return oidc.ErrSlowDown().WithDescription("too many attempts; try again in %d seconds", seconds(wait))
	case !ok:
		return oidc.ErrInvalidClient().WithDescription("there is no such client, or its secret is wrong")
	}
	return nil
}

// same compares secrets, whose lengths do not show either.
func same(given, wanted string) bool {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(wanted))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// ClientCredentials finds the client of the client credentials grant.
func (s storage) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if err := s.AuthorizeClientIDSecret(ctx, id, secret); err != nil {
		return nil, err
	}
	return s.GetClientByClientID(ctx, id)
}

// ClientCredentialsTokenRequest takes what such a client asks for.
func (s storage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	allowed := s.settings().Clients[id].Scopes
	if scopes == nil {
		scopes = allowed
	}
	for _, scope := range scopes {
		if !slices.Contains(allowed, scope) {
			return nil, oidc.ErrInvalidScope().WithDescription("the client may not have the scope")
		}
	}
	return &clientRequest{id, scopes}, nil
}

// SetUserinfoFromScopes tells a client about the user, in the ID token.
func (s storage) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, subject, _ string, scopes []string) error {
	return s.describe(ctx, info, subject, scopes)
}

func (s storage) describe(ctx context.Context, info *oidc.UserInfo, subject string, scopes []string) error {
	a, err := s.store.AccountByID(ctx, subject)
	if errors.Is(err, store.ErrNotFound) {
		return oidc.ErrInvalidGrant().WithDescription("the account is gone")
	}
	if err != nil {
		return s.failed("describe a user", err)
	}
	info.Subject = a.ID
	if slices.Contains(scopes, oidc.ScopeEmail) {
		info.Email = a.Email // as it was registered; nobody has verified it
	}
	return nil
}

// SetUserinfoFromToken answers /userinfo.
func (s storage) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, id, subject, _ string) error {
	if revoked, err := s.store.Revoked(ctx, id); err != nil {
		return s.failed("read a token", err)
	} else if revoked || id == "" { // an ID token has no id
		return oidc.ErrAccessDenied().WithDescription("the token is revoked")
	}
	return s.describe(ctx, info, subject, []string{oidc.ScopeEmail})
}

// SetIntrospectionFromToken tells a client about a token; an error: it is not active.
func (s storage) SetIntrospectionFromToken(ctx context.Context, answer *oidc.IntrospectionResponse, id, subject, _ string) error {
	if revoked, err := s.store.Revoked(ctx, id); err != nil || revoked || id == "" {
		return errors.Join(errors.New("the token is revoked"), err)
	}
	answer.Subject = subject
	if claims := claimsOf(ctx); claims != nil {
		answer.Issuer, answer.ClientID, answer.Audience, answer.Scope = claims.Issuer, claims.ClientID, claims.Audience, claims.Scopes
		answer.IssuedAt, answer.Expiration = claims.IssuedAt, claims.Expiration
	}
	if _, is := s.settings().Clients[subject]; is {
		return nil
	}
	a, err := s.store.AccountByID(ctx, subject)
	answer.Email, answer.Username = a.Email, a.Email
	return err
}

// GetPrivateClaimsFromScopes is not asked: GetPrivateClaimsFromRequest is.
func (s storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetPrivateClaimsFromRequest adds to an access token what the cloud controllers want to
// know: whose it is, and the stamp of the password, with which it ends.
func (s storage) GetPrivateClaimsFromRequest(ctx context.Context, asked op.TokenRequest, _ []string) (map[string]any, error) {
	claims := map[string]any{"scope": strings.Join(asked.GetScopes(), " ")}
	if _, is := asked.(*clientRequest); is {
		return claims, nil
	}
	a, err := s.store.AccountByID(ctx, asked.GetSubject())
	if errors.Is(err, store.ErrNotFound) {
		return nil, oidc.ErrInvalidGrant().WithDescription("the account is gone")
	}
	if err != nil {
		return nil, s.failed("describe a user", err)
	}
	if r, is := asked.(*request); is && r.Stamp != a.Stamp() {
		return nil, oidc.ErrInvalidGrant().WithDescription("the password has changed; log in again")
	}
	claims["user_name"] = a.Email
	if slices.Contains(asked.GetScopes(), controllerScope) {
		claims["stamp"] = a.Stamp()
	}
	return claims, nil
}

// GetKeyByIDAndClientID is not asked: clients have secrets, not keys.
func (s storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, oidc.ErrInvalidClient().WithDescription("clients have no keys here")
}

// ValidateJWTProfileScopes refuses a grant that is not offered.
func (s storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, oidc.ErrUnsupportedGrantType()
}

// Health returns an error if the database does not answer.
func (s storage) Health(ctx context.Context) error { return s.store.Ping(ctx) }

// client implements op.Client.
type client struct {
	id string
	Client
	settings *Config
}

func (c client) GetID() string                    { return c.id }
func (c client) RedirectURIs() []string           { return c.Client.RedirectURIs }
func (c client) PostLogoutRedirectURIs() []string { return nil }

// ApplicationType is native if the client runs on its users' machines, where the library
// does not compare ports.
func (c client) ApplicationType() op.ApplicationType {
	if c.Secret == "" {
		return op.ApplicationTypeNative
	}
	return op.ApplicationTypeWeb
}

func (c client) AuthMethod() oidc.AuthMethod {
	if c.Secret == "" {
		return oidc.AuthMethodNone
	}
	return oidc.AuthMethodBasic
}

func (c client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}

func (c client) GrantTypes() []oidc.GrantType {
	var grants []oidc.GrantType
	for _, grant := range c.Grants {
		grants = append(grants, oidc.GrantType(grant))
	}
	return grants
}

func (c client) LoginURL(id string) string           { return "/login?id=" + id }
func (c client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (c client) IDTokenLifetime() time.Duration      { return c.settings.AccessToken }
func (c client) DevMode() bool                       { return false }

//lint:ignore ST1003 the library's interface has this name
func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return slices.Clone[[]string]
}

func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return slices.Clone[[]string]
}

func (c client) IsScopeAllowed(scope string) bool     { return slices.Contains(c.Scopes, scope) }
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c client) ClockSkew() time.Duration             { return 0 }
