"""Fixed phrases: what is said as a whole, not built. One a line, ``English | Italian``.

Final "?" and "!" are part of the Italian; the English may come without its final punctuation. They are
always training data, never held out: nothing in them generalises.
"""

from __future__ import annotations

from examples.demo_model.grammar import Sentence

_PHRASES = """
Hello | Ciao
Hi | Ciao
Good morning | Buongiorno
Good afternoon | Buon pomeriggio
Good evening | Buonasera
Good night | Buonanotte
Goodbye | Arrivederci
Bye | Ciao
Bye bye | Ciao ciao
See you later | A dopo
See you soon | A presto
See you tomorrow | A domani
See you tonight | A stasera
Have a nice day | Buona giornata
Have a good day | Buona giornata
Have a nice evening | Buona serata
Have a good trip | Buon viaggio
Welcome | Benvenuto
Welcome to Italy | Benvenuto in Italia
Welcome to Rome | Benvenuto a Roma
Thank you | Grazie
Thanks | Grazie
Thank you very much | Grazie mille
Thanks a lot | Grazie mille
Thank you so much | Grazie mille
Thank you for everything | Grazie di tutto
Thank you for your help | Grazie per il tuo aiuto
You are welcome | Prego
Please | Per favore
Yes | Sì
No | No
Yes, please | Sì, per favore
No, thank you | No, grazie
No, thanks | No, grazie
Yes, thank you | Sì, grazie
Maybe | Forse
Of course | Certo
Sure | Certo
All right | Va bene
Okay | Va bene
Perfect | Perfetto
Excuse me | Mi scusi
Sorry | Scusa
I am sorry | Mi dispiace
I am very sorry | Mi dispiace molto
No problem | Nessun problema
It does not matter | Non importa
Do not worry | Non ti preoccupare
Congratulations | Congratulazioni
Happy birthday | Buon compleanno
Merry Christmas | Buon Natale
Happy New Year | Buon anno
Happy Easter | Buona Pasqua
Good luck | Buona fortuna
Cheers | Salute
Enjoy your meal | Buon appetito
Help | Aiuto
Stop | Fermati
Wait | Aspetta
Listen | Ascolta
Look | Guarda
Be careful | Stai attento
Let's eat | Mangiamo
Let's dance | Balliamo
Let's go | Andiamo
Come here | Vieni qui
Come in | Avanti
Nice to meet you | Piacere di conoscerti
How are you | Come stai?
How are you today | Come stai oggi?
How are you doing | Come va?
Hello, how are you | Ciao, come stai?
Hi, how are you | Ciao, come stai?
Good morning, how are you | Buongiorno, come stai?
How is it going | Come va?
How do you feel | Come ti senti?
I am fine | Io sto bene
I am fine, thank you | Io sto bene, grazie
I am fine, thanks | Io sto bene, grazie
I am not well | Io non sto bene
I am well | Io sto bene
And you | E tu?
I feel good | Io mi sento bene
I do not feel well | Io non mi sento bene
What is your name | Come ti chiami?
What is his name | Come si chiama lui?
What is her name | Come si chiama lei?
Where are you from | Di dove sei?
Where do you come from | Da dove vieni?
Where is he from | Di dove è lui?
Where is she from | Di dove è lei?
How old are you | Quanti anni hai?
How old is he | Quanti anni ha lui?
How old is she | Quanti anni ha lei?
What do you do | Che lavoro fai?
What are you doing | Cosa stai facendo?
What do you think | Cosa pensi?
What do you like | Cosa ti piace?
What do you want | Cosa vuoi?
What do you want to do | Cosa vuoi fare?
What do you like to do | Cosa ti piace fare?
What do you like to eat | Cosa ti piace mangiare?
What did you do yesterday | Cosa hai fatto ieri?
What will you do tomorrow | Cosa farai domani?
What are you going to do | Cosa farai?
What do you need | Di cosa hai bisogno?
What is this | Che cos'è questo?
What is that | Che cos'è quello?
What is it | Che cos'è?
What is happening | Cosa succede?
What happened | Cosa è successo?
What does it mean | Cosa significa?
What does this mean | Cosa significa questo?
What time is it | Che ore sono?
What day is it | Che giorno è?
What day is it today | Che giorno è oggi?
What is the date today | Qual è la data di oggi?
What is your phone number | Qual è il tuo numero di telefono?
Who are you | Chi sei?
Who is it | Chi è?
Why | Perché?
Why not | Perché no?
When | Quando?
Where | Dove?
Who | Chi?
What | Cosa?
How | Come?
How much | Quanto?
How many | Quanti?
How much is it | Quanto costa?
How much does it cost | Quanto costa?
How far is it | Quanto è lontano?
Do you speak English | Tu parli inglese?
I do not speak Italian | Io non parlo italiano
I speak a little Italian | Io parlo un po' di italiano
I do not understand | Io non capisco
I understand | Io capisco
Do you understand | Tu capisci?
I know | Io lo so
I do not know | Io non lo so
I do not remember | Io non ricordo
I think so | Penso di sì
I do not think so | Penso di no
I hope so | Spero di sì
I believe you | Io ti credo
I agree | Io sono d'accordo
I do not agree | Io non sono d'accordo
I like it | Mi piace
I do not like it | Non mi piace
I love it | Io lo adoro
I love you very much | Io ti amo molto
I love you so much | Io ti amo tanto
I miss you | Mi manchi
I miss Italy | Mi manca l'Italia
I like you | Mi piaci
I am lost | Io mi sono perso
I need help | Io ho bisogno di aiuto
I do not have time | Io non ho tempo
I do not have money | Io non ho soldi
Breakfast is ready | La colazione è pronta
Lunch is ready | Il pranzo è pronto
Dinner is ready | La cena è pronta
I am on vacation | Io sono in vacanza
I have a headache | Io ho mal di testa
I have a question | Io ho una domanda
I have an idea | Io ho un'idea
I am cold | Io ho freddo
I am hot | Io ho caldo
Are you cold | Tu hai freddo?
It is cold | Fa freddo
It is cold today | Oggi fa freddo
It is hot | Fa caldo
It is hot today | Oggi fa caldo
It is raining | Piove
It is snowing | Nevica
It is sunny | C'è il sole
It is windy | C'è vento
How is the weather | Che tempo fa?
The weather is nice today | Oggi il tempo è bello
It is a beautiful day | È una bella giornata
Today is a beautiful day | Oggi è una bella giornata
The weather is nice | Il tempo è bello
The weather is bad | Il tempo è brutto
It is late | È tardi
It is early | È presto
It is true | È vero
It is not true | Non è vero
It is possible | È possibile
It is impossible | È impossibile
It is noon | È mezzogiorno
It is midnight | È mezzanotte
It is one o'clock | È l'una
It is two o'clock | Sono le due
It is three o'clock | Sono le tre
It is four o'clock | Sono le quattro
It is five o'clock | Sono le cinque
It is six o'clock | Sono le sei
It is seven o'clock | Sono le sette
It is eight o'clock | Sono le otto
It is nine o'clock | Sono le nove
It is ten o'clock | Sono le dieci
Today is Monday | Oggi è lunedì
Today is Tuesday | Oggi è martedì
Today is Wednesday | Oggi è mercoledì
Today is Thursday | Oggi è giovedì
Today is Friday | Oggi è venerdì
Today is Saturday | Oggi è sabato
Today is Sunday | Oggi è domenica
Tomorrow is Monday | Domani è lunedì
Tomorrow is Saturday | Domani è sabato
Tomorrow is Sunday | Domani è domenica
That is right | Esatto
That is enough | Basta così
That is all | È tutto
Everything is fine | Va tutto bene
Is everything okay | Va tutto bene?
Me too | Anch'io
Me neither | Neanch'io
Here you are | Ecco a te
Can you help me, please | Tu mi puoi aiutare, per favore?
Can you repeat, please | Tu puoi ripetere, per favore?
Speak slowly, please | Parla lentamente, per favore
Can I have the bill, please | Io posso avere il conto, per favore?
The bill, please | Il conto, per favore
A table for two, please | Un tavolo per due, per favore
I would like to pay | Io vorrei pagare
I am looking for a hotel | Io sto cercando un hotel
Where is the bathroom | Dov'è il bagno?
Is it far | È lontano?
Turn left | Gira a sinistra
Turn right | Gira a destra
Go straight | Vai dritto
On the left | A sinistra
On the right | A destra
Life is beautiful | La vita è bella
Time flies | Il tempo vola
I love my life | Io amo la mia vita
Music is my life | La musica è la mia vita
I love music | Io amo la musica
I like music | Mi piace la musica
I love football | Io amo il calcio
I like football | Mi piace il calcio
I love art | Io amo l'arte
I love nature | Io amo la natura
Monday | Lunedì
Thirty | Trenta
Forty | Quaranta
Fifty | Cinquanta
One hundred | Cento
One thousand | Mille
"""


def fixed_phrases() -> list[Sentence]:
    """All fixed phrases, without final "?" in English."""
    found = []
    for line in _PHRASES.strip().splitlines():
        en, italian = (part.strip() for part in line.split("|"))
        end = "?" if italian.endswith("?") else ""
        found.append(Sentence(en, italian.removesuffix("?"), end))
    return found


FIXED = {phrase.en.lower(): phrase for phrase in fixed_phrases()}
"""Fixed phrases by their English in lower case; they override what the grammar would build."""
