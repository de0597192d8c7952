package uaa

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"crypto/rand"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// The paths of the OAuth endpoints, as the original's user component had them.
const (
	pathAuthorize  = "/oauth/authorize"
	pathToken      = "/oauth/token"
	pathRevoke     = "/oauth/revoke"
	pathIntrospect = "/introspect"
	pathUserinfo   = "/userinfo"
	pathKeys       = "/token_keys"
	pathLogin      = "/login"
)

// maxBody bounds what a client sends.
const maxBody = 64 << 10

// newProvider returns the OpenID library around our storage.
func newProvider(p *parts) (*op.Provider, error) {
	start := p.settings()
	options := []op.Option{
		op.WithCustomEndpoints(op.NewEndpoint(pathAuthorize), op.NewEndpoint(pathToken), op.NewEndpoint(pathUserinfo), op.NewEndpoint(pathRevoke), op.NewEndpoint("/logout"), op.NewEndpoint(pathKeys)),
		op.WithCustomIntrospectionEndpoint(op.NewEndpoint(pathIntrospect)),
		// Other sites' pages ask nothing of us.
		op.WithCORSOptions(nil),
		op.WithCrypto(noOpaque{}),
	}
	if !start.https() {
		options = append(options, op.WithAllowInsecure())
	}
	return op.NewProvider(&op.Config{CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true}, storage{p}, op.StaticIssuer(start.URL), options...)
}

// noOpaque implements op.Crypto. Our access tokens are signed, none is opaque. The library
// takes what it can decrypt for one, by a cipher that does not notice forgeries.
type noOpaque struct{}

var errOpaque = errors.New("there are no opaque tokens here")

func (noOpaque) Encrypt(string) (string, error) { return "", errOpaque }
func (noOpaque) Decrypt(string) (string, error) { return "", errOpaque }

// contextKey is the type of what requests carry along.
type contextKey int

const (
	addressKey contextKey = iota
	browserKey
	claimsKey
)

func addressOf(ctx context.Context) string {
	address, _ := ctx.Value(addressKey).(string)
	return address
}

// browserOf returns the digest of the cookie of a browser that begins a login.
func browserOf(ctx context.Context) string {
	browser, _ := ctx.Value(browserKey).(string)
	return browser
}

// claimsOf returns what the access token says that a request is about; nil if it is about
// none that counts.
func claimsOf(ctx context.Context) *oidc.AccessTokenClaims {
	claims, _ := ctx.Value(claimsKey).(*oidc.AccessTokenClaims)
	return claims
}

// aboutToken has the library answer, and gives our storage what the library keeps from it.
func (p *parts) aboutToken(w http.ResponseWriter, r *http.Request) {
	verifier := p.provider.AccessTokenVerifier(op.ContextWithIssuer(r.Context(), p.start.URL))
	if claims, err := op.VerifyAccessToken[*oidc.AccessTokenClaims](r.Context(), r.PostFormValue("token"), verifier); err == nil {
		r = r.WithContext(context.WithValue(r.Context(), claimsKey, claims))
	}
	p.provider.ServeHTTP(w, r)
}

// routes returns what browsers and clients are served.
func (p *parts) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.about)
	mux.HandleFunc("GET /info", p.about)
	mux.HandleFunc("GET "+oidc.DiscoveryEndpoint, p.discover)
	mux.Handle("GET "+pathKeys, p.provider)
	mux.HandleFunc("GET "+pathAuthorize, p.authorize)
	mux.HandleFunc("POST "+pathToken, p.token)
	mux.HandleFunc("POST "+pathRevoke, p.aboutToken)
	mux.HandleFunc("POST "+pathIntrospect, p.aboutToken)
	mux.Handle("GET "+pathUserinfo, p.provider)
	mux.Handle("POST "+pathUserinfo, p.provider)
	mux.HandleFunc("GET "+pathLogin, p.showLogin)
	mux.HandleFunc("POST "+pathLogin, p.takeLogin)
	mux.HandleFunc("GET /login.css", showStyle)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.guardHeaders(w)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		address := passwords.ClientAddress(r, func(peer string) bool { return p.fromFront(r, peer) })
		r = r.WithContext(context.WithValue(r.Context(), addressKey, address))
		if r.Method == http.MethodPost && r.URL.RawQuery != "" {
			// Secrets in URLs end up in logs.
			oauthError(w, http.StatusBadRequest, oidc.ErrInvalidRequest().WithDescription("parameters belong into the body"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// guardHeaders says what no page of ours may be used for.
func (p *parts) guardHeaders(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy("'self'"))
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	// Not no-referrer: browsers would send "Origin: null" with the form.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if p.start.https() {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// policy is the content security policy of a page whose form may lead to targets.
func policy(targets string) string {
	return "default-src 'none'; style-src 'self'; form-action " + targets + "; frame-ancestors 'none'; base-uri 'none'"
}

// fromFront reports whether a request's claims about its client count; peer is the
// address that it came from.
func (p *parts) fromFront(r *http.Request, peer string) bool {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(wire.HeaderFrontKey)), []byte(p.start.frontKey())) == 1 {
		return true
	}
	address, err := netip.ParseAddr(peer)
	return err == nil && slices.ContainsFunc(p.settings().TrustedFronts, func(n netip.Prefix) bool { return n.Contains(address.Unmap()) })
}

// about says what is here, and what a login asks for, as the original did.
func (p *parts) about(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"app": map[string]string{"name": "uaa"}, "issuer": p.start.URL,
		"prompts": map[string][]string{"username": {"text", "Email"}, "password": {"password", "Password"}},
	})
}

// discover describes the endpoints. What the library could do and is not served is left
// out.
func (p *parts) discover(w http.ResponseWriter, r *http.Request) {
	doc := op.CreateDiscoveryConfig(op.ContextWithIssuer(r.Context(), p.start.URL), p.provider, storage{p})
	doc.EndSessionEndpoint, doc.DeviceAuthorizationEndpoint, doc.CheckSessionIframe = "", "", ""
	doc.ResponseTypesSupported = []string{string(oidc.ResponseTypeCode)}
	doc.ResponseModesSupported = []string{string(oidc.ResponseModeQuery)}
	doc.GrantTypesSupported = []oidc.GrantType{grantCode, grantRefresh, grantCredentials, grantPassword}
	doc.TokenEndpointAuthMethodsSupported = []oidc.AuthMethod{oidc.AuthMethodBasic, oidc.AuthMethodPost, oidc.AuthMethodNone}
	doc.RevocationEndpointAuthMethodsSupported = doc.TokenEndpointAuthMethodsSupported
	doc.IntrospectionEndpointAuthMethodsSupported = []oidc.AuthMethod{oidc.AuthMethodBasic}
	doc.TokenEndpointAuthSigningAlgValuesSupported, doc.RevocationEndpointAuthSigningAlgValuesSupported, doc.IntrospectionEndpointAuthSigningAlgValuesSupported = nil, nil, nil
	doc.ScopesSupported = []string{oidc.ScopeOpenID, oidc.ScopeEmail, oidc.ScopeOfflineAccess, controllerScope}
	doc.ClaimsSupported = []string{"sub", "aud", "exp", "iat", "iss", "auth_time", "nonce", "amr", "at_hash", "azp", "email", "user_name", "scope"}
	writeJSON(w, http.StatusOK, doc)
}

// authorize begins a login: it gives the browser a cookie and lets the library look at
// what the client asks for. Where the client or its redirect URI is not known, the
// browser stays here.
func (p *parts) authorize(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		p.refuse(w, http.StatusBadRequest, "The request cannot be read.")
		return
	}
	for name, values := range r.Form {
		if len(values) > 1 {
			p.refuse(w, http.StatusBadRequest, "The program that sent you here says twice what "+name+" is.")
			return
		}
	}
	c, found := p.settings().Clients[r.Form.Get("client_id")]
	if !found || !c.redirects(r.Form.Get("redirect_uri")) {
		p.refuse(w, http.StatusBadRequest, "The program that sent you here is not known, or wants its answer at an address that is not registered.")
		return
	}
	cookie := p.cookie(r)
	if cookie == "" {
		cookie = rand.Text() + rand.Text()
		http.SetCookie(w, &http.Cookie{
			Name: p.cookieName(), Value: cookie, Path: "/", HttpOnly: true, Secure: p.start.https(), SameSite: http.SameSiteLaxMode,
		})
	}
	ctx := context.WithValue(r.Context(), browserKey, p.digest("browser", cookie))
	p.provider.ServeHTTP(w, r.WithContext(ctx))
}

// token gives tokens. The library knows every grant that we offer but the password.
func (p *parts) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, oidc.ErrInvalidRequest().WithDescription("the form cannot be read"))
		return
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			oauthError(w, http.StatusBadRequest, oidc.ErrInvalidRequest().WithDescription("%s is there twice", name))
			return
		}
	}
	switch grant := r.PostForm.Get("grant_type"); {
	case r.PostForm.Has("client_assertion") || r.PostForm.Has("client_assertion_type"):
		oauthError(w, http.StatusUnauthorized, oidc.ErrInvalidClient().WithDescription("clients have secrets here, and no keys"))
	case grant == grantPassword:
		p.passwordGrant(w, r)
	case slices.Contains([]string{grantCode, grantRefresh, grantCredentials}, grant):
		p.provider.ServeHTTP(w, r)
	default:
		oauthError(w, http.StatusBadRequest, oidc.ErrUnsupportedGrantType().WithDescription("the grants are authorization_code, refresh_token, client_credentials and password"))
	}
}

// passwordGrant gives tokens for a user's password, to clients that may see it.
func (p *parts) passwordGrant(w http.ResponseWriter, r *http.Request) {
	ctx := op.ContextWithIssuer(r.Context(), p.start.URL)
	id, secret, basic := r.BasicAuth()
	if basic {
		var err1, err2 error
		id, err1 = url.QueryUnescape(id)
		secret, err2 = url.QueryUnescape(secret)
		if errors.Join(err1, err2) != nil {
			id = ""
		}
	} else {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	s := storage{p}
	asking, found := p.settings().Clients[id]
	if !found || asking.Secret != "" || secret != "" {
		if err := s.AuthorizeClientIDSecret(ctx, id, secret); err != nil {
			p.tokenFailed(w, err)
			return
		}
	}
	if !slices.Contains(asking.Grants, grantPassword) {
		oauthError(w, http.StatusBadRequest, oidc.ErrUnauthorizedClient().WithDescription("the client may not use the grant password"))
		return
	}
	scopes := splitScopes(r.PostForm.Get("scope"))
	if len(scopes) == 0 {
		scopes = asking.Scopes
	}
	for _, scope := range scopes {
		if !slices.Contains(asking.Scopes, scope) {
			oauthError(w, http.StatusBadRequest, oidc.ErrInvalidScope().WithDescription("the client may not have the scope"))
			return
		}
	}
	a, wait, err := p.login(ctx, r.PostForm.Get("username"), r.PostForm.Get("password"), addressOf(ctx))
	switch {
	case errors.Is(err, passwords.ErrBusy):
		w.Header().Set("Retry-After", "5")
		oauthError(w, http.StatusServiceUnavailable, oidc.ErrServerError().WithDescription("too many log in at once; try again"))
		return
	case err != nil:
		p.tokenFailed(w, s.failed("check a password", err))
		return
	case wait > 0:
		w.Header().Set("Retry-After", strconv.Itoa(seconds(wait)))
		oauthError(w, http.StatusTooManyRequests, oidc.ErrInvalidGrant().WithDescription("too many attempts; try again in %d seconds", seconds(wait)))
		return
	case a == nil:
		oauthError(w, http.StatusBadRequest, oidc.ErrInvalidGrant().WithDescription("the password is wrong, or there is no such account"))
		return
	}
	asked := &request{ID: rand.Text(), Client: id, Scopes: scopes, Subject: a.ID, Authenticated: time.Now(), Family: rand.Text(), Stamp: a.Stamp()}
	answer, err := op.CreateTokenResponse(ctx, asked, client{id, asking, p.settings()}, p.provider, true, "", "")
	if err != nil {
		p.tokenFailed(w, err)
		return
	}
	p.log.Info("logged in", "account", a.Email, "client", id, "by", "password grant")
	writeJSON(w, http.StatusOK, answer)
}

func (p *parts) tokenFailed(w http.ResponseWriter, err error) {
	var told *oidc.Error
	if !errors.As(err, &told) {
		told = storage{p}.failed("give tokens", err)
	}
	status := http.StatusBadRequest
	switch told.ErrorType {
	case oidc.InvalidClient:
		status = http.StatusUnauthorized
	case oidc.ServerError:
		status = http.StatusInternalServerError
	case oidc.SlowDown:
		status = http.StatusTooManyRequests
	}
	oauthError(w, status, told)
}

// login checks a password. It returns nil if the password is wrong or there is no such
// account, and how long to wait if too many were tried.
func (p *parts) login(ctx context.Context, email, password, address string) (a *store.Account, wait time.Duration, err error) {
	if email = strings.ToLower(email); !passwords.PossibleEmail(email) {
		return nil, 0, nil
	}
	found, err := p.store.Account(ctx, email)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, 0, err
	}
	ok, wait, err := p.guard.Check(ctx, p.store.Logins(), email, address, found.PasswordHash, password)
	if err != nil || !ok {
		return nil, wait, err
	}
	return &found, 0, nil
}

// seconds rounds a wait up.
func seconds(wait time.Duration) int { return int(math.Ceil(wait.Seconds())) }

func oauthError(w http.ResponseWriter, status int, err *oidc.Error) {
	writeJSON(w, status, err)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // our own types: they can be written
		status, data = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client may be gone
}
