package uaa

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
)

//go:embed login.html
var loginText string

//go:embed login.css
var styleText []byte

var loginPage = template.Must(template.New("login").Parse(loginText))

// page describes what the login page shows.
type page struct {
	Client  string // who wants to know the user; "": no form
	Email   string
	Message string
	ID      string
	Token   string // that the page is ours
}

func showStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=3600")
	_, _ = w.Write(styleText) // the browser may be gone
}

// refuse shows why there is no login.
func (p *parts) refuse(w http.ResponseWriter, status int, message string) {
	p.render(w, status, page{Message: message})
}

func (p *parts) render(w http.ResponseWriter, status int, shown page) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := loginPage.Execute(w, shown); err != nil {
		p.log.Debug("a browser did not take the login page", "error", err)
	}
}

// cookieName names the browser's cookie. Where browsers speak TLS, no other host of the
// domain, such as an app, can set a cookie of this name.
func (p *parts) cookieName() string {
	if p.start.https() {
		return "__Host-uaa"
	}
	return "uaa"
}

func (p *parts) cookie(r *http.Request) string {
	c, err := r.Cookie(p.cookieName())
	if err != nil || len(c.Value) != 52 { // two of rand.Text
		return ""
	}
	return c.Value
}

// digest returns what only we can make of a text, for one purpose.
func (p *parts) digest(purpose, text string) string {
	mac := hmac.New(sha256.New, []byte(p.start.derive(purpose)))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// begun returns the login that a browser began, and the token of its page. It answers
// otherwise, and returns nil.
func (p *parts) begun(w http.ResponseWriter, r *http.Request, id string) (*request, string) {
	asked, err := p.requests.open(id, time.Now())
	cookie := p.cookie(r)
	if err != nil || cookie == "" || !hmac.Equal([]byte(asked.Browser), []byte(p.digest("browser", cookie))) {
		p.refuse(w, http.StatusBadRequest, "This login was begun too long ago, or in another browser. Go back to the program that sent you here and begin again.")
		return nil, ""
	}
	if c, found := p.settings().Clients[asked.Client]; !found || !c.redirects(asked.Redirect) {
		p.refuse(w, http.StatusBadRequest, "The program that sent you here is no longer known.")
		return nil, ""
	}
	return asked, p.digest("form", cookie+" "+id)
}

// showLogin asks for the password.
func (p *parts) showLogin(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	asked, token := p.begun(w, r, id)
	if asked == nil {
		return
	}
	p.allowTarget(w, asked)
	p.render(w, http.StatusOK, page{Client: asked.Client, Email: asked.Hint, ID: id, Token: token})
}

// allowTarget lets the page's form lead to the client: browsers look at where an answer
// redirects, too.
func (p *parts) allowTarget(w http.ResponseWriter, asked *request) {
	u, err := url.Parse(asked.Redirect)
	if err != nil {
		return
	}
	w.Header().Set("Content-Security-Policy", policy("'self' "+u.Scheme+"://"+u.Host))
}

// takeLogin checks the password and sends the browser back to the client with a code.
func (p *parts) takeLogin(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		p.refuse(w, http.StatusBadRequest, "The form cannot be read.")
		return
	}
	// Apps are at hosts of the same site, so that SameSite does not keep their pages away.
	if r.Header.Get("Origin") != p.start.URL {
		p.refuse(w, http.StatusForbidden, "This form comes from another page than ours.")
		return
	}
	id := r.PostForm.Get("id")
	asked, token := p.begun(w, r, id)
	if asked == nil {
		return
	}
	if !hmac.Equal([]byte(r.PostForm.Get("token")), []byte(token)) {
		p.refuse(w, http.StatusForbidden, "This form comes from another page than ours.")
		return
	}
	p.allowTarget(w, asked)
	again := page{Client: asked.Client, Email: r.PostForm.Get("email"), ID: id, Token: token}
	a, wait, err := p.login(r.Context(), again.Email, r.PostForm.Get("password"), addressOf(r.Context()))
	switch {
	case errors.Is(err, passwords.ErrBusy):
		w.Header().Set("Retry-After", "5")
		again.Message = "Too many log in at once. Try again in a moment."
		p.render(w, http.StatusServiceUnavailable, again)
		return
	case err != nil:
		p.log.Error("cannot check a password", "error", err)
		again.Message = "Something is wrong here. Try again later."
		p.render(w, http.StatusInternalServerError, again)
		return
	case wait > 0:
		w.Header().Set("Retry-After", strconv.Itoa(seconds(wait)))
		again.Message = "Too many attempts. Try again in " + strconv.Itoa(seconds(wait)) + " seconds."
		p.render(w, http.StatusTooManyRequests, again)
		return
	case a == nil:
		again.Message = "The password is wrong, or there is no such account."
		p.render(w, http.StatusUnauthorized, again)
		return
	}
	asked.Subject, asked.Authenticated, asked.Family, asked.Stamp = a.ID, time.Now(), rand.Text(), a.Stamp()
	code := rand.Text() + rand.Text()
	kept, err := json.Marshal(asked)
	if err == nil {
		err = p.store.SaveCode(r.Context(), code, store.Code{Family: asked.Family, AccountID: a.ID, Request: string(kept), Expires: time.Now().Add(codeTime)})
	}
	if err != nil {
		p.log.Error("cannot keep a code", "error", err)
		again.Message = "Something is wrong here. Try again later."
		p.render(w, http.StatusInternalServerError, again)
		return
	}
	p.log.Info("logged in", "account", a.Email, "client", asked.Client, "by", "login page")
	back, _ := url.Parse(asked.Redirect) // registered
	query := back.Query()
	query.Set("code", code)
	query.Set("iss", p.start.URL) // RFC 9207: whose answer it is
	if asked.State != "" {
		query.Set("state", asked.State)
	}
	back.RawQuery = query.Encode()
	http.Redirect(w, r, back.String(), http.StatusSeeOther)
}
