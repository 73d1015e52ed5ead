package demo

import (
	"bytes"
	"fmt"
	"math"
	"strings"
)

// Fonts that every PDF reader has.
const (
	serifBold = "F1"
	serif     = "F2"
	italic    = "F3"
)

// certificate is a PDF of one page: the certificate of birth of a person who
// doesn't exist. It is the same bytes every time.
func certificate() []byte {
	var c content
	c.frame(36, 1.8)
	c.frame(42, 0.5)
	c.text(serif, 12, 72, 762, "Free City of Port Lumen   -   Civil Registry")
	c.text(serifBold, 30, 72, 704, "Certificate of Birth")
	c.text(italic, 11, 72, 682, "Extract from the register of births, volume 1990, entry 42")
	y := 632.0
	for _, row := range [][2]string{
		{"Family name", "Lindqvist-Okoye"},
		{"Given names", "Marta Ilse"},
		{"Date of birth", "17 May 1990, 04:25"},
		{"Place of birth", "St. Brigid's Hospital, Port Lumen"},
		{"First parent", "Adaeze Okoye"},
		{"Second parent", "Jonas Lindqvist"},
		{"Register number", "1990-0042"},
	} {
		c.text(serif, 10, 72, y, row[0])
		c.text(serifBold, 14, 200, y, row[1])
		c.line(72, y-8, 523, y-8)
		y -= 40
	}
	c.text(serif, 12, 72, 310, "Issued at Port Lumen on 1 March 2026.")
	c.line(72, 208, 270, 208)
	c.text(italic, 10, 72, 194, "E. Vasquez, registrar of births")
	c.circle(440, 235, 56, 1.6)
	c.circle(440, 235, 48, 0.5)
	c.text(serifBold, 11, 403, 242, "PORT LUMEN")
	c.text(serif, 9, 415, 227, "Civil Registry")
	c.text(italic, 9, 72, 60, "Fictitious: city, registry and persons are made up for a demonstration. This paper certifies nothing.")
	return document("Certificate of Birth 1990-0042 (fictitious)", c.Bytes())
}

// content is what is drawn on a page, in points from its lower left corner.
type content struct{ bytes.Buffer }

func (c *content) text(font string, size, x, y float64, text string) {
	escaped := strings.NewReplacer(`\`, `\\`, "(", `\(`, ")", `\)`).Replace(text)
	fmt.Fprintf(c, "BT /%s %g Tf %g %g Td (%s) Tj ET\n", font, size, x, y, escaped)
}

func (c *content) line(x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, "0.4 w %g %g m %g %g l S\n", x1, y1, x2, y2)
}

func (c *content) frame(margin, width float64) {
	fmt.Fprintf(c, "%g w %g %g %g %g re S\n", width, margin, margin, 595-2*margin, 842-2*margin)
}

// circle is drawn as four Bézier curves.
func (c *content) circle(x, y, r, width float64) {
	k := r * 4 / 3 * (math.Sqrt2 - 1)
	fmt.Fprintf(c, "%g w %.2f %.2f m\n", width, x+r, y)
	for _, q := range [4][2]float64{{1, 0}, {0, 1}, {-1, 0}, {0, -1}} { // from there a quarter turn to the left
		dx, dy := q[0], q[1]
		fmt.Fprintf(c, "%.2f %.2f %.2f %.2f %.2f %.2f c\n",
			x+r*dx-k*dy, y+r*dy+k*dx, x-r*dy+k*dx, y+r*dx+k*dy, x-r*dy, y+r*dx)
	}
	c.WriteString("S\n")
}

// document puts a page into a PDF file (ISO 32000-1, 7.5).
func document(title string, page []byte) []byte {
	font := func(name string) string {
		return "<< /Type /Font /Subtype /Type1 /BaseFont /" + name + " /Encoding /WinAnsiEncoding >>"
	}
	objects := []string{ // object 1 is the first
		"<< /Type /Catalog /Pages 2 0 R /Lang (en) >>",
		"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
		"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R /F2 6 0 R /F3 7 0 R >> >> >>",
		fmt.Sprintf("<< /Length %d >>\nstream\n%sendstream", len(page), page),
		font("Times-Bold"), font("Times-Roman"), font("Times-Italic"),
		"<< /Title (" + strings.NewReplacer("(", `\(`, ")", `\)`).Replace(title) + ") >>",
	}
	var b bytes.Buffer
	b.WriteString("%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
	var at []int
	for i, object := range objects {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", i+1, object)
	}
	table := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, offset := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", offset)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R /Info 8 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, table)
	return b.Bytes()
}
